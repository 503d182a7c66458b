//! Verdicts: what a path or address falls in ([`class`]), what is asked of it ([`access`]), and
//! the one function that decides ([`decide`]).

use crate::wire;

/// Bits that a path, inode or address falls in.
pub mod class {
    /// `[files] read`.
    pub const READ: u32 = 1 << 0;
    /// `[files] write`; what may be written may be read.
    pub const WRITE: u32 = 1 << 1;
    /// `[files] deny` or `[network] deny`.
    pub const DENY: u32 = 1 << 2;
    /// `[files] allow_secret`.
    pub const ALLOW_SECRET: u32 = 1 << 3;
    /// `[exec] allow`.
    pub const EXEC: u32 = 1 << 4;
    /// `[network] connect`.
    pub const CONNECT: u32 = 1 << 5;
    /// `[network] listen`.
    pub const LISTEN: u32 = 1 << 6;
    /// `[network] unix`.
    pub const UNIX: u32 = 1 << 7;
    /// A dynamic loader: what it maps executable first is a program, judged as exec.
    pub const LOADER: u32 = 1 << 8;
    /// `[exec.arguments]`: a program that may run only with arguments that its rules name.
    pub const ARGUMENTS: u32 = 1 << 9;
    /// The arguments are among those, or it is too early to know them: they are judged when the
    /// new image is in place and before it runs.
    pub const NAMED: u32 = 1 << 10;
    /// `[files] runtime`: the runtime's own files, which do not count as read or written.
    pub const RUNTIME: u32 = 1 << 11;
    /// `[network] deny` of an AF_UNIX socket: says nothing about it as a file.
    pub const DENY_SOCKET: u32 = 1 << 12;
    /// First bit of the built-in sets.
    pub const SET_SHIFT: u32 = 16;
    /// All bits of the built-in sets.
    pub const SETS: u32 = ((1 << super::set::COUNT) - 1) << SET_SHIFT;

    /// Bit of a set, see [`super::set`].
    pub const fn of_set(set: usize) -> u32 {
        1 << (SET_SHIFT as usize + set)
    }
}

/// Numbers of the built-in sets.
pub mod set {
    /// Keys, tokens, browser profiles, other users' homes.
    pub const SECRETS: usize = 0;
    /// What honest servers touch too, such as a project's `.env`.
    pub const SENSITIVE: usize = 1;
    /// Shell profiles, cron, units, autostart, git hooks.
    pub const PERSISTENCE: usize = 2;
    /// Configuration of MCP clients.
    pub const MCP_CONFIG: usize = 3;
    /// Environment and memory of processes outside the tree.
    pub const PROCESSES: usize = 4;
    /// Ways out of the tree: container engines, buses, terminals, mounts, namespaces, BPF.
    pub const ESCAPE: usize = 5;
    /// Cloud metadata addresses.
    pub const METADATA: usize = 6;
    /// Number of sets.
    pub const COUNT: usize = 7;
    /// Names as written in rules, by number.
    pub const NAMES: [&str; COUNT] =
        ["secrets", "sensitive", "persistence", "mcp_config", "processes", "escape", "metadata"];
}

/// Numbers of the detectors, which judge what many events do together.
pub mod detector {
    /// Many different files read.
    pub const MASS_READ: usize = 0;
    /// Many files overwritten, renamed, deleted or emptied.
    pub const MASS_WRITE: usize = 1;
    /// Many programs or processes started.
    pub const EXEC_BURST: usize = 2;
    /// Many addresses or ports contacted.
    pub const CONNECT_BURST: usize = 3;
    /// Environment or memory of a process outside the tree read.
    pub const ENV_SECRET: usize = 4;
    /// Something secret read, then something sent.
    pub const EXFILTRATION: usize = 5;
    /// Data carried away in questions for names.
    pub const DNS_BURST: usize = 6;
    /// Number of detectors.
    pub const COUNT: usize = 7;
    /// Names as written in rules, by number.
    pub const NAMES: [&str; COUNT] = [
        "mass_read",
        "mass_write",
        "exec_burst",
        "connect_burst",
        "env_secret",
        "exfiltration",
        "dns_burst",
    ];
}

/// What is asked of an object. Several bits may be asked at once.
pub mod access {
    /// Read the contents or list the directory.
    pub const READ: u8 = 1 << 0;
    /// Create, change, delete, rename, link, or set mode, owner, attributes or times.
    pub const WRITE: u8 = 1 << 1;
    /// Execute.
    pub const EXEC: u8 = 1 << 2;
    /// Connect or send to an address.
    pub const CONNECT: u8 = 1 << 3;
    /// Listen on an address or path.
    pub const LISTEN: u8 = 1 << 4;
    /// Connect or send to an AF_UNIX socket.
    pub const UNIX: u8 = 1 << 5;
    /// Number of bits.
    pub const COUNT: usize = 6;
    /// Names as written in rules, by bit number.
    pub const NAMES: [&str; COUNT] = ["read", "write", "exec", "connect", "listen", "unix"];
}

/// Verdicts, each including the weaker ones.
pub mod verdict {
    /// Nothing to say.
    pub const ALLOW: u8 = 0;
    /// Reported.
    pub const ALERT: u8 = 1;
    /// Refused.
    pub const DENY: u8 = 2;
    /// Refused, and the process killed.
    pub const KILL: u8 = 3;
    /// Refused, and the whole instance killed.
    pub const KILL_TREE: u8 = 4;
    /// Names as written in rules, by number.
    pub const NAMES: [&str; 5] = ["allow", "alert", "deny", "kill", "kill-tree"];
}

/// Which kind of rule decided.
pub mod reason {
    /// A rule of the class allows it.
    pub const LISTED: u8 = 0;
    /// No rule names it: the class's `unlisted`.
    pub const UNLISTED: u8 = 1;
    /// A `deny` entry.
    pub const DENY: u8 = 2;
    /// An `allow_secret` entry.
    pub const ALLOW_SECRET: u8 = 3;
    /// A built-in set.
    pub const SET: u8 = 4;
    /// A bound was exceeded: path, argument vector, scratch.
    pub const BOUND: u8 = 5;
    /// The instance has been sentenced already.
    pub const DOOMED: u8 = 6;
    /// The command that the person launched.
    pub const LAUNCH: u8 = 7;
    /// The rules name the program, and not these arguments of it: `unlisted`.
    pub const ARGUMENTS: u8 = 8;
    /// A host name that leads to an address which only a rule for addresses allows. Found by the
    /// agent; the kernel programs never say so.
    pub const REBINDING: u8 = 9;
    /// A detector: what many events do together.
    pub const DETECTOR: u8 = 10;
}

/// [`Policy::mode`].
pub mod mode {
    /// Verdicts are recorded, nothing is refused.
    pub const OBSERVE: u8 = 0;
    /// Verdicts are carried out.
    pub const ENFORCE: u8 = 1;
}

/// Automata of one policy, matched one after the other.
pub const TABLES: usize = 3;

/// One compiled policy as the kernel holds it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// First cells of the tables ([`crate::automaton`]); at 0 is that of no patterns. The sets' patterns
    /// that begin with a path, the rules' patterns, the sets' floating ones.
    pub tables: [u32; TABLES],
    /// That of programs with the arguments that they may have.
    pub arguments: u32,
    /// [`crate::network::AddressKey::table`] of this policy.
    pub network: u32,
    /// Number of the policy in the event stream (`policy` events), never reused.
    pub id: u32,
    /// Reads that the kernel programs count, see [`ReadLimit`].
    pub reads: ReadLimit,
    /// When the policy lapses, CLOCK_BOOTTIME, ns: rights that were granted for a while are over, and
    /// nobody has replaced it. 0: never.
    pub until_ns: u64,
    /// Event kinds recorded though not violations: bit `1 << kind` of [`crate::record::kind`].
    pub record: u64,
    /// Slot of the policy that is in force from then on.
    pub after: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// One of [`mode`].
    pub mode: u8,
    /// 1: DNS goes to the agent ([`InstanceState::resolver`]), as it does where rules name hosts.
    pub names: u8,
    /// [`verdict`] of what no rule names, by bit number of [`access`].
    pub unlisted: [u8; access::COUNT],
    /// What the sets say: bit `1 << set` of `sets[bit][verdict - 1]` when the set has that
    /// [`verdict`] on the [`access`] of that bit number. See [`Policy::rule_set`].
    pub sets: [[u16; VERDICTS]; access::COUNT],
}

/// Verdicts that a set can have.
const VERDICTS: usize = 4;

impl Policy {
    /// A policy that speaks about nothing and allows everything.
    pub const EMPTY: Self = Self {
        tables: [0; TABLES],
        arguments: 0,
        network: 0,
        id: 0,
        reads: ReadLimit { files: 0, step_ms: 0, verdict: 0, reserved: 0 },
        until_ns: 0,
        record: 0,
        after: 0,
        reserved: 0,
        mode: mode::OBSERVE,
        names: 0,
        unlisted: [verdict::ALLOW; access::COUNT],
        sets: [[0; VERDICTS]; access::COUNT],
    };

    /// Gives a set ([`set`]) a verdict on accesses (bits of [`access`]).
    pub fn rule_set(&mut self, set: usize, accesses: u8, verdict: u8) {
        for bit in 0..access::COUNT {
            let verdict = if accesses >> bit & 1 == 1 { verdict } else { verdict::ALLOW };
            self.rule_access(set, bit, verdict);
        }
    }

    /// Gives a set a verdict on the access of a bit number, and leaves those on others.
    pub fn rule_access(&mut self, set: usize, bit: usize, verdict: u8) {
        for (at, mask) in self.sets[bit].iter_mut().enumerate() {
            let holds = usize::from(verdict) == at + 1;
            *mask = *mask & !(1 << set) | u16::from(holds) << set;
        }
    }
}

/// Steps of the window in which reads are counted.
pub const STEPS: usize = 8;

/// How many different files a tree may read within a window.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadLimit {
    /// The count at which the open is judged; 0: nothing is counted.
    pub files: u32,
    /// Length of a step: [`STEPS`] less one of them are the window.
    pub step_ms: u32,
    /// One of [`verdict`].
    pub verdict: u32,
    /// Unused, 0.
    pub reserved: u32,
}

/// What a tree has read within the latest steps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// At the step's number modulo [`STEPS`]: the number (CLOCK_BOOTTIME in steps) in the upper
    /// half, the count in the lower.
    pub steps: [u64; STEPS],
}

/// A file that an instance has read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadKey {
    /// The file.
    pub inode: InodeKey,
    /// The instance.
    pub instance: u32,
    /// Unused, 0.
    pub reserved: u32,
}

/// A verdict and what it rests on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One of [`verdict`], as in force mode: what would have been done.
    pub verdict: u8,
    /// One of [`reason`].
    pub reason: u8,
    /// Set number when `reason` is [`reason::SET`], that of the [`detector`] when it is
    /// [`reason::DETECTOR`], else 0.
    pub set: u8,
    /// The single [`access`] bit that the verdict is about.
    pub access: u8,
}

/// Tag of a process, by tgid.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// Instance number, never 0.
    pub instance: u32,
    /// Position of the instance's [`InstanceState`].
    pub slot: u32,
    /// Bits of [`tag_flags`].
    pub flags: u32,
    /// Unused, 0.
    pub reserved: u32,
}

/// What the kernel knows of an instance. Each field is replaced by one store, by one side only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceState {
    /// Slot of its [`Policy`], 0 while there is none; written by userspace.
    pub policy: u32,
    /// 1: sentenced by a kill-tree verdict, so that whatever of it still runs is killed at its
    /// next hook; written by the kernel programs.
    pub doomed: u32,
    /// Port on loopback at which the agent answers the instance's DNS, 0 while it does not; written
    /// by userspace.
    pub resolver: u32,
    /// Unused, 0.
    pub reserved: u32,
}

/// [`Tag::flags`].
pub mod tag_flags {
    /// The launcher's child before its first exec: what it executes was asked for by the person.
    pub const LAUNCH: u32 = 1;
    /// The executable is a dynamic loader that has not yet mapped its program.
    pub const LOADER: u32 = 2;
    /// A server that others have started: stopped, and everything refused, until the agent has put
    /// it under its rules.
    pub const HELD: u32 = 4;
}

/// [`Tag::instance`] of processes that are held for the agent.
pub const HELD_INSTANCE: u32 = u32::MAX - 1;

/// Identity of an inode on every path that leads to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InodeKey {
    /// Inode number.
    pub ino: u64,
    /// `s_dev` in the kernel's own encoding (`major << 20 | minor`).
    pub dev: u32,
    /// `i_generation`, so that a reused number is another file.
    pub generation: u32,
}

/// Set membership of an inode.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Set bits of [`class`] of the inode itself.
    pub own: u32,
    /// Set bits of everything beneath it.
    pub beneath: u32,
    /// Set bits of what lies somewhere beneath it: to rename it moves a member of the set.
    pub above: u32,
    /// Unused, 0.
    pub reserved: u32,
}

wire!(
    Policy = 120,
    ReadLimit = 16,
    Reads = 64,
    ReadKey = 24,
    Decision = 4,
    Tag = 16,
    InstanceState = 16,
    InodeKey = 16,
    Label = 16,
);

/// The verdict on `asked` (bits of [`access`]) for an object in `classes` (bits of [`class`]).
///
/// Strongest first: `deny`, `allow_secret`, the built-in sets, the class's own rules, `unlisted`.
/// A set never weakens what the rules say: of its verdict and theirs the stronger one stands. Of
/// several accesses the one with the strongest verdict is reported.
#[inline(always)]
pub fn decide(policy: &Policy, classes: u32, asked: u8) -> Decision {
    let mut strongest = Decision::default();
    let mut bit = 0;
    while bit < access::COUNT {
        if asked & (1 << bit) != 0 {
            strongest = stronger(strongest, decide_one(policy, classes, bit));
        }
        bit += 1;
    }
    strongest
}

/// The one of two decisions with the stronger verdict; the first when they are equal, the second
/// when the first is about nothing.
#[inline(always)]
pub const fn stronger(first: Decision, second: Decision) -> Decision {
    if first.access == 0 || second.verdict > first.verdict { second } else { first }
}

/// The verdict on the one access of a bit number (below [`access::COUNT`]).
#[inline(always)]
pub fn decide_one(policy: &Policy, classes: u32, bit: usize) -> Decision {
    let access = 1 << bit;
    if classes & DENYING[bit] != 0 {
        return Decision { verdict: verdict::DENY, reason: reason::DENY, set: 0, access };
    }
    if classes & class::ALLOW_SECRET != 0 {
        return Decision { verdict: verdict::ALLOW, reason: reason::ALLOW_SECRET, set: 0, access };
    }
    let unnamed =
        access == access::EXEC && classes & (class::ARGUMENTS | class::NAMED) == class::ARGUMENTS;
    let listed = classes & ALLOWING[bit] != 0 && !unnamed;
    let rules = if listed { verdict::ALLOW } else { policy.unlisted[bit] };
    let mut verdict = VERDICTS as u8;
    while verdict > verdict::ALLOW && verdict >= rules {
        let says = classes >> class::SET_SHIFT & policy.sets[bit][verdict as usize - 1] as u32;
        if says != 0 {
            let set = says.trailing_zeros() as u8;
            return Decision { verdict, reason: reason::SET, set, access };
        }
        verdict -= 1;
    }
    let reason = match (listed, unnamed) {
        (true, _) => reason::LISTED,
        (false, true) => reason::ARGUMENTS,
        (false, false) => reason::UNLISTED,
    };
    Decision { verdict: rules, reason, set: 0, access }
}

/// Class bits that deny an access, by its bit number.
pub const DENYING: [u32; access::COUNT] = [
    class::DENY,
    class::DENY,
    class::DENY,
    class::DENY,
    class::DENY | class::DENY_SOCKET,
    class::DENY | class::DENY_SOCKET,
];

/// Class bits that allow an access, by its bit number.
const ALLOWING: [u32; access::COUNT] = [
    class::READ | class::WRITE,
    class::WRITE,
    class::EXEC | class::ARGUMENTS,
    class::CONNECT,
    class::LISTEN,
    class::UNIX,
];

/// The verdict on what exceeds a bound: refused, because nothing is matched in a shortened form.
#[inline(always)]
pub const fn beyond_bound(asked: u8) -> Decision {
    Decision {
        verdict: verdict::DENY,
        reason: reason::BOUND,
        set: 0,
        access: asked & asked.wrapping_neg(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let unlisted = [verdict::ALERT, verdict::DENY, verdict::DENY, verdict::DENY, 0, 0];
        let mut policy = Policy { unlisted, ..Policy::EMPTY };
        policy.rule_set(set::SECRETS, 0x3f, verdict::KILL_TREE);
        policy.rule_set(set::SENSITIVE, 0x3f, verdict::ALERT);
        policy.rule_set(set::PERSISTENCE, access::WRITE, verdict::DENY);
        policy
    }

    fn verdict_of(classes: u32, asked: u8) -> (u8, u8) {
        let decision = decide(&policy(), classes, asked);
        (decision.verdict, decision.reason)
    }

    #[test]
    fn what_is_listed_is_allowed_and_the_rest_is_unlisted() {
        assert_eq!(verdict_of(class::READ, access::READ), (verdict::ALLOW, reason::LISTED));
        assert_eq!(verdict_of(class::WRITE, access::READ), (verdict::ALLOW, reason::LISTED));
        assert_eq!(verdict_of(class::READ, access::WRITE), (verdict::DENY, reason::UNLISTED));
        assert_eq!(verdict_of(0, access::READ), (verdict::ALERT, reason::UNLISTED));
        assert_eq!(verdict_of(class::EXEC, access::EXEC), (verdict::ALLOW, reason::LISTED));
    }

    #[test]
    fn a_program_with_rules_for_its_arguments_needs_named_ones() {
        let exec = |classes| verdict_of(classes, access::EXEC);
        let named = class::ARGUMENTS | class::NAMED;
        for allowed in [0, class::EXEC] {
            assert_eq!(exec(allowed | named), (verdict::ALLOW, reason::LISTED));
            let unnamed = allowed | class::ARGUMENTS;
            assert_eq!(exec(unnamed), (verdict::DENY, reason::ARGUMENTS));
        }
        // Elsewhere the bits say nothing, and arguments without rules neither.
        assert_eq!(exec(class::NAMED), (verdict::DENY, reason::UNLISTED));
        let read = verdict_of(class::READ | class::ARGUMENTS, access::READ);
        assert_eq!(read, (verdict::ALLOW, reason::LISTED));
        let secret = class::of_set(set::SECRETS);
        assert_eq!(exec(secret | named), (verdict::KILL_TREE, reason::SET));
    }

    #[test]
    fn deny_is_stronger_than_allow_secret_and_allow_secret_than_sets() {
        let secrets = class::of_set(set::SECRETS);
        let both = class::DENY | class::ALLOW_SECRET | class::READ;
        assert_eq!(verdict_of(both, access::READ), (verdict::DENY, reason::DENY));
        let named = secrets | class::ALLOW_SECRET;
        assert_eq!(verdict_of(named, access::READ), (verdict::ALLOW, reason::ALLOW_SECRET));
        let broad = secrets | class::READ;
        assert_eq!(verdict_of(broad, access::READ), (verdict::KILL_TREE, reason::SET));
    }

    #[test]
    fn a_set_speaks_only_about_its_accesses_and_names_itself_on_a_tie() {
        let persistence = class::of_set(set::PERSISTENCE);
        let decision = decide(&policy(), persistence, access::WRITE);
        assert_eq!((decision.reason, decision.set), (reason::SET, set::PERSISTENCE as u8));
        assert_eq!(verdict_of(persistence | class::READ, access::READ).0, verdict::ALLOW);
        let sensitive = class::of_set(set::SENSITIVE);
        assert_eq!(verdict_of(sensitive, access::WRITE), (verdict::DENY, reason::UNLISTED));
        assert_eq!(verdict_of(sensitive, access::READ), (verdict::ALERT, reason::SET));
    }

    #[test]
    fn of_several_accesses_the_strongest_verdict_is_reported() {
        let decision = decide(&policy(), class::READ, access::READ | access::WRITE);
        assert_eq!((decision.verdict, decision.access), (verdict::DENY, access::WRITE));
        let decision = decide(&policy(), class::WRITE, access::READ | access::WRITE);
        assert_eq!((decision.verdict, decision.access), (verdict::ALLOW, access::READ));
        assert_eq!(decide(&policy(), 0, 0), Decision::default());
    }
}
