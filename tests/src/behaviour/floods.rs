//! Much of anything changes no verdict, and nothing is lost without being counted: rows 39, 40,
//! 44 and 58 of the threat list in the documentation.

use anyhow::{Context as _, Result, ensure};

use crate::{Backend, Lab, Mode, Outcome, behaviour::opens::DENYING};

crate::tests! {
    both: [
        flood_of_opens_is_recorded_or_counted_as_lost,
        flood_does_not_crowd_a_violation_out,
        flood_of_processes_is_tagged_to_the_last,
    ],
    lsm: [threads_of_one_tree_cannot_disturb_each_others_verdicts],
    tracepoint: [threads_of_one_tree_cannot_disturb_each_others_records],
}

/// Events that a run says it lost.
fn lost(outcome: &Outcome) -> u64 {
    outcome.events.of("loss").filter_map(|event| event.number("count")).sum()
}

/// A word of the actor's line.
fn said(outcome: &Outcome, key: &str) -> Result<u64> {
    let words = outcome.stdout.split_whitespace();
    let value = words.filter_map(|word| word.split_once('=')).find(|(name, _)| *name == key);
    let (_, value) = value.with_context(|| format!("no {key}: {outcome}"))?;
    Ok(value.parse()?)
}

fn flood_of_opens_is_recorded_or_counted_as_lost(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let file = lab.file("allowed/a", "plain")?;
    let words = ["open-flood".as_ref(), file.as_os_str(), "50000".as_ref(), "4".as_ref()];
    let outcome = lab.run(Mode::Enforce).actor(words)?;
    ensure!(said(&outcome, "refused")? == 0, "{}{}", outcome.stdout, outcome.stderr);
    let path = file.to_string_lossy();
    let recorded = outcome.events.of("open").filter(|event| event.names(&path)).count() as u64;
    let lost = lost(&outcome);
    let all = said(&outcome, "opened")?;
    ensure!(recorded <= all && recorded + lost >= all, "{all} opens, {recorded} recorded, {lost} lost");
    Ok(())
}

fn flood_does_not_crowd_a_violation_out(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    let steps = format!(
        "open-flood {plain} 50000 4 , read {secret}",
        plain = plain.display(),
        secret = secret.display()
    );
    let outcome = lab.run(Mode::Enforce).actor(steps.split_whitespace())?;
    let path = secret.to_string_lossy();
    let found = outcome.events.violations().any(|event| event.names(&path));
    ensure!(found && !outcome.stdout.starts_with("ok"), "{}{}", outcome.stdout, outcome.stderr);
    let twin = lab.run(Mode::Enforce).actor(["read".as_ref(), plain.as_os_str()])?;
    twin.events.assert_quiet()
}

fn flood_of_processes_is_tagged_to_the_last(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let (plain, secret) = (lab.file("allowed/a", "plain")?, lab.file("forbidden/a", "secret")?);
    for (file, forbidden) in [(&plain, false), (&secret, true)] {
        let steps = format!("fork-flood 300 , fork read {}", file.display());
        let outcome = lab.run(Mode::Enforce).actor(steps.split_whitespace())?;
        let forks = outcome.events.of("fork").count() as u64 + lost(&outcome);
        ensure!(forks >= 301, "{forks} forks: {}{}", outcome.stdout, outcome.stderr);
        ensure!(outcome.stdout.contains("ok bytes=") != forbidden, "{}", outcome.stdout);
        let path = file.to_string_lossy();
        let found = outcome.events.violations().any(|event| event.names(&path));
        ensure!(found == forbidden, "{}{}", outcome.stdout, outcome.stderr);
    }
    Ok(())
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
    ensure!(said(&outcome, "secret")? == 0, "a secret was opened: {}", say());
    ensure!(said(&outcome, "secret_refused")? > 0, "nothing was tried: {}", say());
    // A hook without a scratch slot refuses, whatever it is asked; it counts, and must stay rare.
    let (allowed, refused) = (said(&outcome, "allowed")?, said(&outcome, "allowed_refused")?);
    ensure!(refused * 1000 <= allowed, "{refused} allowed opens refused: {}", say());
    Ok(())
}

fn threads_of_one_tree_cannot_disturb_each_others_records(lab: &Lab) -> Result<()> {
    ensure!(lab.backend() == Backend::Tracepoint);
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
