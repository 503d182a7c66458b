//! Values for the variables of rules. They come from passwd and from the command line, never
//! from what the watched server says about itself.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::resolve::Root;
use crate::event::{Bytes, World};

/// What `${...}` in rules stands for, for one instance.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// `${HOME}`: from passwd, or `--home`.
    pub home: PathBuf,
    /// `${USER}`: from passwd.
    pub user: String,
    /// `${CWD}`: where the server is started.
    pub cwd: PathBuf,
    /// `${TMPDIR}`.
    pub tmpdir: PathBuf,
    /// `${ENV:NAME}`: the server's environment.
    pub env: BTreeMap<OsString, OsString>,
    /// `${OPT:--name}` and `${ARGS_AFTER_MATCH}`: the server's command with its arguments.
    pub arguments: Vec<OsString>,
    /// Homes that belong to the user: passwd's, `--home`, the environment's HOME.
    pub own_homes: Vec<PathBuf>,
    /// Homes of other people, from passwd.
    pub other_homes: Vec<PathBuf>,
    /// The root directory of the server, when it is in a container.
    pub root: Option<Root>,
    /// The machine that the values are from, when it is another one.
    pub elsewhere: Option<Elsewhere>,
}

/// Another machine, as far as rules met it.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Symbolic links.
    pub links: BTreeMap<Bytes, Bytes>,
    /// Values of variables that come from environment and arguments.
    pub values: BTreeMap<String, Vec<OsString>>,
}

/// Why there are no values.
#[derive(Debug, thiserror::Error)]
pub enum BindingsError {
    /// passwd cannot be read.
    #[error("cannot read /etc/passwd: {0}")]
    Passwd(#[source] io::Error),
    /// No entry and no `--home`.
    #[error("user id {0} has no entry in /etc/passwd: name the home directory with --home")]
    NoEntry(u32),
    /// A home that would make everybody's files the user's own.
    #[error("{} cannot be a home directory here: name another with --home", .0.display())]
    NotAHome(PathBuf),
    /// `--home` cannot be used.
    #[error("cannot use --home {}: {source}", path.display())]
    Home {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No working directory.
    #[error("cannot find the working directory: {0}")]
    Cwd(#[source] io::Error),
}

/// How and where a server is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Its command with its arguments.
    pub command: Vec<OsString>,
    /// Its environment.
    pub environment: BTreeMap<OsString, OsString>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Others have started it.
    pub by_others: Option<ByOthers>,
}

/// A server that others have started: it may run as a user of whom this machine does not know, as
/// those of containers do. Such a user has no home here.
#[derive(Clone, Debug, Default)]
pub struct ByOthers {
    /// Its root directory, when it is in a container.
    pub root: Option<Root>,
}

/// The home of those who have none, as Debian's passwd has it for `nobody`.
const NO_HOME: &str = "/nonexistent";

struct Account {
    name: String,
    uid: u32,
    home: PathBuf,
}

impl Bindings {
    /// Values for a server that `uid` starts here and now, with this process's environment and
    /// working directory; `home` is what `--home` says.
    ///
    /// # Errors
    /// When passwd does not know the user and no home is given, or the home does not exist.
    pub fn of_user(
        uid: u32,
        home: Option<&Path>,
        arguments: &[OsString],
    ) -> Result<Self, BindingsError> {
        let start = Start {
            command: arguments.to_vec(),
            environment: std::env::vars_os().collect(),
            cwd: std::env::current_dir().map_err(BindingsError::Cwd)?,
            by_others: None,
        };
        Self::of_start(uid, home, start)
    }

    /// Values for a server that `uid` starts in another process.
    ///
    /// # Errors
    /// As [`Bindings::of_user`].
    pub fn of_start(uid: u32, home: Option<&Path>, start: Start) -> Result<Self, BindingsError> {
        let passwd = fs::read("/etc/passwd").map_err(BindingsError::Passwd)?;
        let accounts: Vec<Account> =
            passwd.split(|b| *b == b'\n').filter_map(Account::parse).collect();
        let own = accounts.iter().find(|account| account.uid == uid);
        let given = home
            .map(|path| {
                fs::canonicalize(path)
                    .map_err(|source| BindingsError::Home { path: path.to_owned(), source })
            })
            .transpose()?;
        let home = given
            .or_else(|| own.map(|account| canonical_if_exists(&account.home)))
            .or_else(|| start.by_others.as_ref().map(|_| NO_HOME.into()))
            .ok_or(BindingsError::NoEntry(uid))?;
        if !is_home(&home) {
            return Err(BindingsError::NotAHome(home));
        }
        let Start { command: arguments, environment: env, cwd, by_others } = start;
        let mut own_homes = vec![home.clone()];
        let mut add = |path: PathBuf| {
            if is_home(&path) && !own_homes.contains(&canonical_if_exists(&path)) {
                own_homes.push(canonical_if_exists(&path));
            }
            own_homes.len()
        };
        let known = own.map_or(1, |account| add(account.home.clone()));
        let all = env.get(OsStr::new("HOME")).map_or(known, |home| add(home.into()));
        // Its environment cannot make what belongs to others its own, when nobody says whose it is.
        let certain = if by_others.is_some() { known } else { all };
        let mut other_homes = Vec::new();
        for account in accounts.iter().filter(|account| account.is_person()) {
            let path = canonical_if_exists(&account.home);
            let taken = own_homes[..certain].iter().any(|own| own.starts_with(&path));
            if is_home(&path) && !taken && !other_homes.contains(&path) {
                other_homes.push(path);
            }
        }
        Ok(Self {
            home,
            user: own.map_or_else(|| uid.to_string(), |account| account.name.clone()),
            cwd,
            tmpdir: env.get(OsStr::new("TMPDIR")).map_or_else(|| "/tmp".into(), PathBuf::from),
            env,
            arguments,
            own_homes,
            other_homes,
            root: by_others.and_then(|others| others.root),
            elsewhere: None,
        })
    }

    /// Values of the machine that a recording is from.
    pub fn of_world(world: &World) -> Self {
        let texts = |list: &[Bytes]| list.iter().map(os).collect::<Vec<OsString>>();
        let paths = |list: &[Bytes]| list.iter().map(|path| os(path).into()).collect();
        Self {
            home: os(&world.home).into(),
            user: os(&world.user).to_string_lossy().into_owned(),
            cwd: os(&world.cwd).into(),
            tmpdir: os(&world.tmpdir).into(),
            env: BTreeMap::new(),
            arguments: texts(&world.arguments),
            own_homes: paths(&world.own_homes),
            other_homes: paths(&world.other_homes),
            root: None,
            elsewhere: Some(Elsewhere {
                links: world.links.clone(),
                values: world
                    .values
                    .iter()
                    .map(|(name, list)| (name.clone(), texts(list)))
                    .collect(),
            }),
        }
    }

    /// The inverse, with what was met: of the environment only the values that were used.
    pub(super) fn world(
        &self,
        values: BTreeMap<String, Vec<Bytes>>,
        links: BTreeMap<Bytes, Bytes>,
    ) -> World {
        let bytes = |text: &OsStr| Bytes::from(text.as_bytes());
        let paths = |list: &[PathBuf]| list.iter().map(|path| bytes(path.as_os_str())).collect();
        World {
            home: bytes(self.home.as_os_str()),
            user: self.user.as_str().into(),
            cwd: bytes(self.cwd.as_os_str()),
            tmpdir: bytes(self.tmpdir.as_os_str()),
            values,
            arguments: self.arguments.iter().map(|argument| bytes(argument)).collect(),
            own_homes: paths(&self.own_homes),
            other_homes: paths(&self.other_homes),
            links,
        }
    }
}

fn os(bytes: &Bytes) -> OsString {
    OsStr::from_bytes(bytes.as_bytes()).to_owned()
}

impl Account {
    fn parse(line: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let [name, _, uid, _, _, home, ..] = fields[..] else { return None };
        Some(Self {
            name: str::from_utf8(name).ok()?.to_owned(),
            uid: str::from_utf8(uid).ok()?.parse().ok()?,
            home: PathBuf::from(OsStr::from_bytes(home)),
        })
    }

    /// Accounts of services often have a home that is no home, such as `/` or `/usr/sbin`.
    fn is_person(&self) -> bool {
        self.uid == 0 || (1000..65534).contains(&self.uid)
    }
}

/// Neither empty, relative, the root, nor a directory that everybody uses.
fn is_home(path: &Path) -> bool {
    const SHARED: [&str; 12] = [
        "/bin", "/boot", "/dev", "/etc", "/lib", "/opt", "/proc", "/run", "/sbin", "/sys", "/usr",
        "/tmp",
    ];
    path.is_absolute()
        && path.parent().is_some()
        && path != Path::new("/home")
        && !SHARED.iter().any(|shared| path == Path::new(shared))
}

fn canonical_if_exists(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_that_everybody_shares_are_refused() {
        let of = |home: &str| Bindings::of_user(u32::MAX - 7, Some(Path::new(home)), &[]);
        assert!(matches!(of("/"), Err(BindingsError::NotAHome(_))));
        assert!(matches!(of("/tmp"), Err(BindingsError::NotAHome(_))));
        assert!(matches!(of("/no/such/home"), Err(BindingsError::Home { .. })));
        let own = tempfile::tempdir().unwrap();
        let bindings = Bindings::of_user(u32::MAX - 7, Some(own.path()), &[]).unwrap();
        assert_eq!(bindings.home, fs::canonicalize(own.path()).unwrap());
    }

    #[test]
    fn a_user_without_an_entry_must_name_a_home() {
        let nobody = Bindings::of_user(u32::MAX - 7, None, &[]);
        assert!(matches!(nobody, Err(BindingsError::NoEntry(_))));
        let root = Bindings::of_user(0, None, &[]).unwrap();
        assert_eq!(root.user, "root");
    }

    #[test]
    fn a_user_of_a_container_has_no_home_here() {
        let start = Start { by_others: Some(ByOthers::default()), ..Start::default() };
        let bindings = Bindings::of_start(u32::MAX - 7, None, start.clone()).unwrap();
        assert_eq!(bindings.home, Path::new(NO_HOME));
        assert_eq!(bindings.user, (u32::MAX - 7).to_string());
        let root = Bindings::of_start(0, None, start.clone()).unwrap();
        assert_ne!(root.home, Path::new(NO_HOME));
        // Nor does its environment give it one.
        let claim = [("HOME".into(), root.home.clone().into_os_string())];
        let claims = Start { environment: claim.into(), ..start };
        let bindings = Bindings::of_start(u32::MAX - 7, None, claims).unwrap();
        assert!(bindings.own_homes.contains(&root.home));
        assert!(bindings.other_homes.contains(&root.home));
    }

    #[test]
    fn homes_of_services_are_nobodys_homes() {
        let account = |line: &str| Account::parse(line.as_bytes()).unwrap();
        assert!(account("u:x:1000:1000::/home/u:/bin/sh").is_person());
        assert!(account("root:x:0:0::/root:/bin/sh").is_person());
        assert!(!account("daemon:x:1:1::/usr/sbin:/bin/false").is_person());
        assert!(Account::parse(b"broken line").is_none());
    }
}
