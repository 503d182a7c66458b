//! Much of anything changes no verdict, and nothing is lost without being counted: rows 39, 40 and
//! 58 of `docs/evasions.md`.

use anyhow::{Context as _, Result, ensure};

use crate::{Events, Lab, Mode, Outcome, behaviour::opens::DENYING, cases::Cases};

crate::tests! {
    both: [
        flood_of_opens_loses_nothing_uncounted_and_no_violation,
        flood_of_processes_is_tagged_to_the_last,
    ],
    lsm: [threads_of_one_tree_cannot_disturb_each_others_verdicts],
    tracepoint: [threads_of_one_tree_cannot_disturb_each_others_records],
}

/// Events that a run says it lost.
fn lost(events: &Events) -> u64 {
    events.of("loss").filter_map(|event| event.number("count")).sum()
}

/// A number in the actor's line.
fn said(line: &str, key: &str) -> Result<u64> {
    let words = line.split_whitespace();
    let value = words.filter_map(|word| word.split_once('=')).find(|(name, _)| *name == key);
    let (_, value) = value.with_context(|| format!("no {key}: {line}"))?;
    Ok(value.parse()?)
}

const OPENS: u64 = 50_000;

fn flood_of_opens_loses_nothing_uncounted_and_no_violation(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let flood = format!("open-flood {} {OPENS} 4", plain.display());
    let mut cases = Cases::new();
    cases.add("flood", &flood);
    cases.add("then", format!("{flood} , read {}", secret.display()));
    let batch = cases.run(lab)?;
    ensure!(said(batch.line("flood"), "refused")? == 0, "{batch}");
    let all = 2 * said(batch.line("flood"), "opened")?;
    let name = plain.to_string_lossy();
    let recorded = batch.events.of("open").filter(|event| event.names(&name)).count() as u64;
    let lost = lost(&batch.events);
    ensure!(all == 2 * OPENS, "{batch}");
    ensure!(recorded <= all && recorded + lost >= all, "{recorded} and {lost} lost of {all}");
    batch.refused("then")?;
    batch.denied("open", "file_read", &secret)?;
    batch.quiet_about(&plain)
}

fn flood_of_processes_is_tagged_to_the_last(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let mut cases = Cases::new();
    for (side, file) in [("allowed", &plain), ("forbidden", &secret)] {
        cases.add(side, format!("fork-flood 300 , fork read {}", file.display()));
    }
    let batch = cases.run(lab)?;
    let forks = batch.events.of("fork").count() as u64 + lost(&batch.events);
    ensure!(forks >= 604, "{forks} forks\n{batch}");
    batch.refused("forbidden")?;
    batch.denied("open", "file_read", &secret)?;
    batch.worked("allowed")?;
    batch.quiet_about(&plain)
}

fn preempt(lab: &Lab, mode: Mode) -> Result<Outcome> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let words = ["preempt".as_ref(), plain.as_os_str(), secret.as_os_str()];
    lab.run(mode).actor(words.into_iter().chain(["3000".as_ref(), "8".as_ref()]))
}

fn threads_of_one_tree_cannot_disturb_each_others_verdicts(lab: &Lab) -> Result<()> {
    let outcome = preempt(lab, Mode::Enforce)?;
    let say = || format!("{}{}", outcome.stdout, outcome.stderr);
    ensure!(said(&outcome.stdout, "secret")? == 0, "a secret was opened: {}", say());
    ensure!(said(&outcome.stdout, "secret_refused")? > 0, "nothing was tried: {}", say());
    // A hook without a scratch slot refuses, whatever it is asked; it counts, and must stay rare.
    let (allowed, refused) = (said(&outcome.stdout, "allowed")?, said(&outcome.stdout, "allowed_refused")?);
    ensure!(refused * 1000 <= allowed, "{refused} allowed opens refused: {}", say());
    Ok(())
}

fn threads_of_one_tree_cannot_disturb_each_others_records(lab: &Lab) -> Result<()> {
    let outcome = preempt(lab, Mode::Observe)?;
    let (plain, secret) = (lab.path("allowed/a"), lab.path("forbidden/a"));
    let (plain, secret) = (plain.to_string_lossy(), secret.to_string_lossy());
    let mixed = outcome.events.of("open").find(|event| {
        (event.names(&plain) && event.is_violation())
            || (event.names(&secret) && !event.is_violation())
    });
    ensure!(mixed.is_none(), "{mixed:?}");
    ensure!(outcome.events.violations().count() > 0, "{}", outcome.stderr);
    Ok(())
}
