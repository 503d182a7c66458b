//! Whose account the server runs under, and whose the recordings are.
//!
//! The C library's look-ups are not used: they load the name services' libraries, which a static
//! program cannot do safely. Users that are not in /etc/passwd are asked of `getent`, groups of
//! `id`, which know all services.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups};

/// Why the account could not be told.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// sudo's variable is no number.
    #[error("{name}={} is not a user or group number: start mcp-monitor through sudo itself", value.display())]
    BadVariable {
        /// Which variable.
        name: &'static str,
        /// Its value.
        value: OsString,
    },
    /// The user is not in passwd.
    #[error("user {0} is not in the passwd database: add it, or start as a user that is")]
    Unknown(Uid),
    /// passwd cannot be read.
    #[error("cannot read /etc/passwd: {0}")]
    Passwd(#[source] io::Error),
}

/// A user as the server will run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: Uid,
    /// Primary group.
    pub gid: Gid,
    /// All groups.
    pub groups: Vec<Gid>,
    /// Login name.
    pub name: String,
    /// Home directory as passwd has it.
    pub home: PathBuf,
    /// The monitor's own privileges must be given up to become this user.
    pub drop: bool,
}

impl Account {
    /// The account for the server: the person behind sudo, else the one who started the monitor.
    pub fn of_caller() -> Result<Self, AccountError> {
        match sudo_ids(geteuid(), |name| env::var_os(name))? {
            Some((uid, gid)) => {
                let Entry { name, home } = look_up(uid)?;
                let groups = groups_of(&name, gid);
                Ok(Self { uid, gid, groups, name, home, drop: true })
            }
            None => {
                let (uid, gid) = (geteuid(), getegid());
                let Entry { name, home } = look_up(uid)?;
                // Only looked at when privileges are dropped.
                let groups = getgroups().unwrap_or_default();
                Ok(Self { uid, gid, groups, name, home, drop: false })
            }
        }
    }

    /// Root's own account, whoever has started us.
    ///
    /// # Errors
    /// When root has no entry in passwd.
    pub fn of_root() -> Result<Self, AccountError> {
        let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
        let Entry { name, home } = look_up(uid)?;
        Ok(Self { uid, gid, groups: Vec::new(), name, home, drop: false })
    }

    /// The server will be root.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }

    /// Makes files that are created until the guard is dropped belong to this user, and be refused
    /// where this user would be refused: a recording never writes through a link that the server
    /// planted in the user's directories.
    pub fn assume_for_files(&self) -> FileIdentity {
        if !self.drop {
            return FileIdentity { before: None };
        }
        let before = (geteuid(), getegid());
        nix::unistd::setfsgid(self.gid);
        nix::unistd::setfsuid(self.uid);
        FileIdentity { before: Some(before) }
    }
}

/// Gives the identity for file accesses back when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct FileIdentity {
    before: Option<(Uid, Gid)>,
}

impl Drop for FileIdentity {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.before {
            nix::unistd::setfsuid(uid);
            nix::unistd::setfsgid(gid);
        }
    }
}

/// What passwd says of a user.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    home: PathBuf,
}

fn look_up(uid: Uid) -> Result<Entry, AccountError> {
    let passwd = fs::read("/etc/passwd").map_err(AccountError::Passwd)?;
    entry(&passwd, uid)
        .or_else(|| entry(&ask("/usr/bin/getent", &["passwd", &uid.to_string()])?, uid))
        .ok_or(AccountError::Unknown(uid))
}

/// The entry of a user in the text of passwd.
fn entry(passwd: &[u8], uid: Uid) -> Option<Entry> {
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let [name, _, number, _, _, home, ..] = fields[..] else { return None };
        let number: u32 = str::from_utf8(number).ok()?.parse().ok()?;
        let name = str::from_utf8(name).ok()?.to_owned();
        let home = OsString::from_vec(home.to_vec()).into();
        (number == uid.as_raw()).then_some(Entry { name, home })
    })
}

/// All groups of a user; as many as can be found out.
fn groups_of(name: &str, gid: Gid) -> Vec<Gid> {
    let asked = ask("/usr/bin/id", &["-G", name]);
    let numbers = asked.and_then(|text| String::from_utf8(text).ok()).unwrap_or_default();
    let numbers = numbers.split_whitespace().filter_map(|number| number.parse().ok());
    let mut groups: Vec<Gid> = numbers.map(Gid::from_raw).collect();
    if groups.is_empty() {
        groups = memberships(&fs::read("/etc/group").unwrap_or_default(), name);
    }
    if !groups.contains(&gid) {
        groups.insert(0, gid);
    }
    groups
}

/// The name of a user in /etc/passwd.
pub fn name_of(uid: u32) -> Option<String> {
    entry(&fs::read("/etc/passwd").ok()?, Uid::from_raw(uid)).map(|entry| entry.name)
}

/// The number of a group.
pub fn group_number(name: &str) -> Option<u32> {
    let entry = |text: &[u8]| {
        text.split(|&byte| byte == b'\n').find_map(|line| {
            let mut fields = line.split(|&byte| byte == b':');
            let same = fields.next() == Some(name.as_bytes());
            let number = fields.nth(1)?;
            same.then(|| str::from_utf8(number).ok()?.parse().ok()).flatten()
        })
    };
    entry(&fs::read("/etc/group").unwrap_or_default())
        .or_else(|| entry(&ask("/usr/bin/getent", &["group", name])?))
}

/// Groups that name a user as a member.
fn memberships(group: &[u8], user: &str) -> Vec<Gid> {
    let groups = group.split(|&byte| byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let [_, _, number, members] = fields[..] else { return None };
        let number = str::from_utf8(number).ok()?.parse().ok()?;
        let is_member = members.split(|&byte| byte == b',').any(|name| name == user.as_bytes());
        is_member.then(|| Gid::from_raw(number))
    });
    groups.collect()
}

/// What a program of the system says, `None` when it is not there or fails.
fn ask(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.env("PATH", OsStr::new("/usr/bin:/bin")).output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// The ids of the person behind sudo; root who used sudo stays root.
fn sudo_ids(
    euid: Uid,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<(Uid, Gid)>, AccountError> {
    let (Some(uid), Some(gid)) = (variable("SUDO_UID"), variable("SUDO_GID")) else {
        return Ok(None);
    };
    if !euid.is_root() {
        return Ok(None);
    }
    let number = |name, value: OsString| {
        value
            .to_str()
            .and_then(|text| text.parse::<u32>().ok())
            // setuid(-1) means "leave as it is".
            .filter(|id| *id != u32::MAX)
            .ok_or(AccountError::BadVariable { name, value })
    };
    let uid = number("SUDO_UID", uid)?;
    let gid = number("SUDO_GID", gid)?;
    Ok((uid != 0).then(|| (Uid::from_raw(uid), Gid::from_raw(gid))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(euid: u32, uid: &str, gid: &str) -> Result<Option<(Uid, Gid)>, AccountError> {
        sudo_ids(Uid::from_raw(euid), |name| {
            Some(OsString::from(if name == "SUDO_UID" { uid } else { gid }))
        })
    }

    #[test]
    fn an_entry_is_found_by_its_number() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nbad line\n\
                       ann:x:1000:100:Ann,,,:/home/ann:/bin/sh\n";
        let ann = Entry { name: "ann".to_owned(), home: "/home/ann".into() };
        assert_eq!(entry(passwd, Uid::from_raw(1000)), Some(ann));
        assert_eq!(entry(passwd, Uid::from_raw(100)), None);
        assert_eq!(entry(b"", Uid::from_raw(0)), None);
    }

    #[test]
    fn memberships_are_told_by_the_whole_name() {
        let group = b"root:x:0:\naudio:x:29:bob,ann\nvideo:x:44:anna\nbad\nplugdev:x:46:ann\n";
        assert_eq!(memberships(group, "ann"), [29, 46].map(Gid::from_raw));
        assert_eq!(memberships(group, "nobody"), []);
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        assert_eq!(group_number("root"), Some(0));
        assert_eq!(group_number("roo"), None);
        assert_eq!(group_number(""), None);
    }

    #[test]
    fn groups_hold_the_primary_one() {
        let gid = Gid::from_raw(4242);
        assert!(groups_of("no-such-user", gid).contains(&gid));
    }

    #[test]
    fn sudo_names_the_person_behind_root() {
        assert_eq!(ids(0, "1000", "100").unwrap(), Some((Uid::from_raw(1000), Gid::from_raw(100))));
    }

    #[test]
    fn variables_of_sudo_mean_nothing_without_root() {
        assert_eq!(ids(1000, "1001", "1001").unwrap(), None);
    }

    #[test]
    fn root_behind_sudo_stays_root() {
        assert_eq!(ids(0, "0", "0").unwrap(), None);
    }

    #[test]
    fn a_user_id_that_is_no_number_is_refused() {
        for bad in ["", "-1", "4294967295", "alice", "1000 "] {
            assert!(matches!(ids(0, bad, "100"), Err(AccountError::BadVariable { .. })), "{bad:?}");
            assert!(matches!(ids(0, "100", bad), Err(AccountError::BadVariable { .. })), "{bad:?}");
        }
    }
}
