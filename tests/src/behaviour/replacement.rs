//! A policy is replaced in one step: while a tree works on, every event is judged by the one policy
//! or the other, never by parts of both.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mcp_monitor::{
    decode,
    kernel::{Kernel, Ring, Rings, Slot},
    rules::Compiled,
};
use monitor_common::{
    policy::{reason, verdict},
    record::kind,
};

use super::automaton::{compile, load};
use crate::{Backend, Lab, run::MARKER};

crate::tests! {
    both: [replaced_policy_judges_nothing_by_halves],
}

const INSTANCE: u32 = 7;
const REPLACEMENTS: u32 = 1000;
/// Every so many replacements the policy that went out of force makes room for a new one.
const RENEWALS: u32 = 10;
/// Forms of each policy, so that a new one is not what stood in its place before.
const FORMS: u32 = 5;

fn replaced_policy_judges_nothing_by_halves(lab: &Lab) -> Result<()> {
    let stage = Stage::new(lab)?;
    let mut kernel = load(lab)?;
    let mut rings = kernel.take_rings()?;
    let mut alternation = Alternation::new(&mut kernel, &stage)?;
    let mut actor = stage.actor(lab)?;
    kernel.tag(actor.0.id(), INSTANCE)?;
    fs::write(lab.path("go"), "")?;
    let mut seen = [0; 2];
    for _ in 0..REPLACEMENTS {
        alternation.replace(&mut kernel)?;
        stage.check(&mut rings, &mut seen)?;
        thread::sleep(Duration::from_millis(1));
    }
    fs::write(lab.path("over"), "")?;
    let line = actor.end()?;
    stage.check(&mut rings, &mut seen)?;
    ensure!(seen.iter().all(|&count| count > u64::from(REPLACEMENTS)), "too few opens: {seen:?}");
    if lab.backend() == Backend::Lsm {
        let word = |word: &str| line.split(' ').any(|part| part == word);
        ensure!(word("secret=0") && word("allowed_refused=0"), "{line}");
    }
    kernel.release(INSTANCE)?;
    Ok(())
}

/// Two files, and policies that agree about them but say so by opposite parts: any mixture of the
/// two lets the secret through, or refuses the plain file. Each form has arguments, hosts and a
/// count of its own besides.
struct Stage {
    plain: PathBuf,
    secret: PathBuf,
    /// Forms of the policy that names the secret, then of the one that names the plain file.
    policies: [Vec<Compiled>; 2],
}

/// What a policy's decisions are made of: the secret's reason, the plain file's.
const REASONS: [(u8, u8); 2] =
    [(reason::DENY, reason::UNLISTED), (reason::UNLISTED, reason::LISTED)];

impl Stage {
    fn new(lab: &Lab) -> Result<Self> {
        let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
        // The tracepoint backend would end the tree at the first refusal.
        let mode = if lab.backend() == Backend::Lsm { "enforce" } else { "observe" };
        let form = |key: &str, place: &str, unlisted: &str, number: u32| {
            let others: String =
                (0..number * 7).map(|other| format!(", '/elsewhere/{key}{other}/**'")).collect();
            let text = format!(
                "[files]\n{key} = ['{}/**'{others}]\n\
                 [exec.arguments]\n'/elsewhere/{key}' = [['{number}', '...']]\n\
                 [network]\nconnect = ['*.{key}{number}.example:443']\n\
                 [limits]\nmass_read = {{ files = {}, window = '1h' }}\n\
                 [response]\nmode = '{mode}'\ndetectors = {{ mass_read = 'deny' }}\n\
                 unlisted = {{ read = '{unlisted}', write = 'allow', exec = 'allow', \
                 connect = 'allow', listen = 'allow', unix = 'allow' }}\n",
                lab.path(place).display(),
                1000 + number
            );
            compile(lab, &text)
        };
        let deny = (0..FORMS).map(|number| form("deny", "forbidden", "allow", number));
        let list = (0..FORMS).map(|number| form("read", "allowed", "deny", number));
        Ok(Self { plain, secret, policies: [deny.collect::<Result<_>>()?, list.collect::<Result<_>>()?] })
    }

    fn actor(&self, lab: &Lab) -> Result<Actor> {
        let mut command = Command::new(lab.actor()?);
        command.arg("await").arg(lab.path("go")).args([",", "preempt"]);
        command.arg(&self.plain).arg(&self.secret).args(["100000", "3"]).arg(lab.path("over"));
        command.env(MARKER, lab.marker()).stdout(Stdio::piped());
        Ok(Actor(command.spawn()?))
    }

    /// Reads what has been recorded so far and counts what is right: secrets, plain files.
    fn check(&self, rings: &mut Rings, seen: &mut [u64; 2]) -> Result<()> {
        let [secrets, plains] = seen;
        *secrets += self.check_ring(&mut rings.violations, &self.secret, verdict::DENY)?;
        *plains += self.check_ring(&mut rings.events, &self.plain, verdict::ALLOW)?;
        Ok(())
    }

    /// All opens in a ring are of this file, by this verdict, for the reason that the policy has.
    fn check_ring(&self, ring: &mut Ring, file: &Path, verdict: u8) -> Result<u64> {
        let mut count = 0;
        while let Some(bytes) = ring.next() {
            let decoded = decode::decode(&bytes)?;
            let (record, path) = (decoded.record, Path::new(OsStr::from_bytes(decoded.path())));
            if record.kind != kind::OPEN || (path != self.plain && path != self.secret) {
                continue;
            }
            let (denied, allowed) = REASONS[record.policy as usize % 2];
            let reason = if verdict == verdict::DENY { denied } else { allowed };
            let decision = record.decision;
            let right = decision.verdict == verdict && decision.reason == reason;
            ensure!(path == file && right, "policy {}: {decision:?} of {path:?}", record.policy);
            count += 1;
        }
        Ok(count)
    }
}

/// The two policies in turn; the number of one that names the secret is even.
struct Alternation<'a> {
    policies: &'a [Vec<Compiled>; 2],
    slots: [Slot; 2],
    replacements: u32,
}

impl<'a> Alternation<'a> {
    fn new(kernel: &mut Kernel, stage: &'a Stage) -> Result<Self> {
        let policies = &stage.policies;
        let slots = [kernel.install(2, &policies[0][0])?, kernel.install(3, &policies[1][0])?];
        kernel.bind(INSTANCE, slots[0])?;
        Ok(Self { policies, slots, replacements: 0 })
    }

    /// Puts the other policy in force and, now and then, a new one in the place of what was.
    fn replace(&mut self, kernel: &mut Kernel) -> Result<()> {
        self.replacements += 1;
        let next = self.replacements as usize % 2;
        kernel.bind(INSTANCE, self.slots[next])?;
        if self.replacements.is_multiple_of(RENEWALS) || self.replacements % RENEWALS == 1 {
            let last = 1 - next;
            kernel.retire(self.slots[last])?;
            let form = (self.replacements / RENEWALS % FORMS) as usize;
            let id = 2 * (self.replacements + 1) + last as u32;
            self.slots[last] = kernel.install(id, &self.policies[last][form])?;
        }
        Ok(())
    }
}

/// The tagged process, ended when the test fails.
struct Actor(Child);

impl Actor {
    /// Waits for its end; its line.
    fn end(&mut self) -> Result<String> {
        let mut stdout = self.0.stdout.take().context("piped")?;
        self.0.wait()?;
        Ok(std::io::read_to_string(&mut stdout)?)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // It has ended already where `end` was called; both calls then do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
