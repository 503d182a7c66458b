//! What userspace does about a verdict, at once when its record is read: end the instance's tree,
//! or one process of it. Refusing and the first SIGKILL are the kernel programs' work.

pub mod argument;

use std::{fs, io};

use monitor_common::{
    policy::{mode, reason, verdict},
    record::{Record, enforced, kind},
};
use nix::unistd::Pid;

use crate::{
    decode,
    event::{Event, Process},
    launch::{Handle, Tree},
};

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: allowed, only reported, or done by the kernel.
    Nothing,
    /// The process that acted must die.
    Process,
    /// Everything of the instance must die.
    Tree,
}

/// What a record leaves to do.
pub fn answer(record: &Record) -> Answer {
    if record.mode != mode::ENFORCE || record.decision.verdict < verdict::DENY {
        return Answer::Nothing;
    }
    let killing = record.decision.verdict >= verdict::KILL;
    match record.enforced {
        _ if record.decision.verdict == verdict::KILL_TREE => Answer::Tree,
        _ if record.decision.reason == reason::DOOMED => Answer::Tree,
        // The image had not run an instruction.
        enforced::KILLED if record.decision.reason == reason::ARGUMENTS => Answer::Nothing,
        // A kill instead of a refusal: the call had been carried out, and descriptors may be
        // shared with the rest of the tree, which the kernel has sentenced.
        enforced::KILLED => Answer::Tree,
        // Userspace judged it, the kernel could not refuse it.
        enforced::AGENT => Answer::Tree,
        // Refused by a program that cannot send signals; the tree is sentenced instead.
        enforced::DENIED if killing => Answer::Tree,
        enforced::NONE if killing => Answer::Process,
        _ => Answer::Nothing,
    }
}

/// A detector's finding as a record, as far as an answer needs one: who acted last, and what the
/// rules say. Nobody knows who has asked for a name: there a kill is one of the whole tree. `None`
/// of other events, and of findings that the kernel has answered.
pub fn of_finding(event: &Event) -> Option<Record> {
    let violation = event.violation.as_ref()?;
    let is_ours = event.is_alert()
        && violation.decision.reason == reason::DETECTOR
        && violation.answered == enforced::NONE;
    is_ours.then(|| {
        let process = event.observed.as_ref().map(|observed| &observed.process);
        let (tgid, tid, start_ns) = process
            .map_or((0, 0, 0), |Process { tgid, tid, start_ns, .. }| (*tgid, *tid, *start_ns));
        let mut decision = violation.decision;
        if process.is_none() && decision.verdict == verdict::KILL {
            decision.verdict = verdict::KILL_TREE;
        }
        Record {
            instance: event.instance,
            mode: if violation.observed_only { mode::OBSERVE } else { mode::ENFORCE },
            decision,
            enforced: enforced::NONE,
            tgid,
            tid,
            start_ns,
            ..decode::blank(kind::EXEC)
        }
    })
}

/// Does what a record leaves to do, and tells what it was. What has left the tree's cgroup is the
/// caller's, once for many records: see [`Tree::kill_strays`].
///
/// # Errors
/// When the kernel refuses to kill.
pub fn carry_out(record: &Record, tree: &Tree) -> io::Result<Answer> {
    let answer = answer(record);
    match answer {
        Answer::Nothing => {}
        Answer::Tree => tree.kill()?,
        Answer::Process => kill_process(record, tree)?,
    }
    Ok(answer)
}

/// Kills the process that acted, if it is still the same one and still in the tree.
fn kill_process(record: &Record, tree: &Tree) -> io::Result<()> {
    let tgid = Pid::from_raw(record.tgid as i32);
    // Opened first: from then on the number cannot come to mean another process unnoticed.
    let handle = match Handle::open(tgid) {
        Ok(handle) => handle,
        Err(error) => return gone_is_fine(error),
    };
    if start_ticks(tgid) != Some(to_ticks(record.start_ns)) || !tree.contains(tgid) {
        return Ok(());
    }
    handle.signal(libc::SIGKILL).or_else(gone_is_fine)
}

fn gone_is_fine(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}

/// Start of a process in clock ticks since boot, field 22 of its stat.
fn start_ticks(tgid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{tgid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

/// Clock ticks are hundredths of a second in every interface to userspace (USER_HZ).
fn to_ticks(start_ns: u64) -> u64 {
    start_ns / 10_000_000
}

#[cfg(test)]
mod tests {
    use monitor_common::{policy::Decision, record::kind};

    use super::*;
    use crate::{
        decode::blank,
        event::{Alert, Body, tests::sample},
    };

    fn record(mode: u8, verdict: u8, enforced: u8) -> Record {
        let decision = Decision { verdict, ..Decision::default() };
        Record { mode, decision, enforced, ..blank(kind::OPEN) }
    }

    #[test]
    fn observing_never_kills() {
        for verdict in verdict::ALLOW..=verdict::KILL_TREE {
            for enforced in enforced::NONE..=enforced::AGENT {
                let record = record(mode::OBSERVE, verdict, enforced);
                assert_eq!(answer(&record), Answer::Nothing);
            }
        }
    }

    #[test]
    fn a_refusal_by_the_kernel_is_enough_for_deny() {
        let record = record(mode::ENFORCE, verdict::DENY, enforced::DENIED);
        assert_eq!(answer(&record), Answer::Nothing);
    }

    #[test]
    fn a_deny_that_the_kernel_could_only_answer_by_killing_ends_the_tree() {
        let record = record(mode::ENFORCE, verdict::DENY, enforced::KILLED);
        assert_eq!(answer(&record), Answer::Tree);
    }

    #[test]
    fn a_program_that_was_killed_before_it_ran_ends_nothing_more() {
        let mut record = record(mode::ENFORCE, verdict::DENY, enforced::KILLED);
        record.decision.reason = reason::ARGUMENTS;
        assert_eq!(answer(&record), Answer::Nothing);
        record.decision.verdict = verdict::KILL_TREE;
        assert_eq!(answer(&record), Answer::Tree);
    }

    #[test]
    fn a_deny_that_was_only_reported_ends_nothing() {
        let record = record(mode::ENFORCE, verdict::DENY, enforced::NONE);
        assert_eq!(answer(&record), Answer::Nothing);
    }

    #[test]
    fn kill_reaches_the_process_and_kill_tree_the_tree() {
        let killed = enforced::DENIED_AND_KILLED;
        assert_eq!(answer(&record(mode::ENFORCE, verdict::KILL, killed)), Answer::Nothing);
        let none = enforced::NONE;
        assert_eq!(answer(&record(mode::ENFORCE, verdict::KILL, none)), Answer::Process);
        for enforced in enforced::NONE..=enforced::AGENT {
            let record = record(mode::ENFORCE, verdict::KILL_TREE, enforced);
            assert_eq!(answer(&record), Answer::Tree);
        }
    }

    #[test]
    fn a_finding_of_nobody_in_particular_ends_the_tree() {
        let mut event = sample(b"/x");
        let mut found = record(mode::ENFORCE, verdict::KILL, enforced::NONE).decision;
        found.reason = reason::DETECTOR;
        if let Some(violation) = &mut event.violation {
            violation.decision = found;
            violation.observed_only = false;
            violation.answered = enforced::NONE;
        }
        event.body = Body::Alert(Box::new(Alert {
            event: "resolve".to_owned(),
            subject: "a.example.com".into(),
            why: String::new(),
            count: 1,
            ancestry: Vec::new(),
            evidence: vec![1],
            finding: None,
        }));
        assert_eq!(of_finding(&event).as_ref().map(answer), Some(Answer::Process));
        event.observed = None;
        assert_eq!(of_finding(&event).as_ref().map(answer), Some(Answer::Tree));
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = Pid::this();
        let ticks = start_ticks(own).unwrap();
        assert!(ticks > 0);
        assert_eq!(to_ticks(ticks * 10_000_000 + 9_999_999), ticks);
        assert_eq!(start_ticks(Pid::from_raw(i32::MAX)), None);
    }
}
