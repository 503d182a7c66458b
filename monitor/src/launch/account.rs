//! Whose account the server runs under, and whose the recordings are.

use std::{
    env,
    ffi::{CString, OsString},
    path::PathBuf,
};

use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgrouplist, getgroups};

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
    /// The passwd or group database could not be read.
    #[error("cannot look up user {user}: {source}")]
    Lookup {
        /// Who was looked up.
        user: Uid,
        /// Why it failed.
        source: nix::Error,
    },
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
                let user = look_up(uid)?;
                let name = CString::new(user.name.as_str()).unwrap_or_default();
                let groups = getgrouplist(&name, gid)
                    .map_err(|source| AccountError::Lookup { user: uid, source })?;
                Ok(Self { uid, gid, groups, name: user.name, home: user.dir, drop: true })
            }
            None => {
                let uid = geteuid();
                let user = look_up(uid)?;
                let groups =
                    getgroups().map_err(|source| AccountError::Lookup { user: uid, source })?;
                let (gid, name, home) = (getegid(), user.name, user.dir);
                Ok(Self { uid, gid, groups, name, home, drop: false })
            }
        }
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

fn look_up(uid: Uid) -> Result<User, AccountError> {
    User::from_uid(uid)
        .map_err(|source| AccountError::Lookup { user: uid, source })?
        .ok_or(AccountError::Unknown(uid))
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
