//! Much of anything changes no verdict, and nothing is lost without being counted: rows 39, 40 and
//! 58 of `docs/evasions.md`.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, Map, MapData};
use monitor_common::{
    limits::{TAGS_REFUSE, TAGS_SENTENCE},
    policy::Tag,
};

use crate::{Events, Lab, Mode, Outcome, Running, behaviour::opens::DENYING, cases::Cases};

crate::tests! {
    both: [
        flood_of_opens_loses_nothing_uncounted_and_no_violation,
        flood_of_processes_is_tagged_to_the_last,
    ],
    lsm: [
        forks_are_refused_before_the_tag_table_is_full,
        threads_of_one_tree_cannot_disturb_each_others_verdicts,
    ],
    tracepoint: [
        tree_is_killed_before_the_tag_table_is_full,
        threads_of_one_tree_cannot_disturb_each_others_records,
    ],
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

/// Processes that a full table still has room for, until forks have consequences.
const ROOM: u64 = 100;
/// The first of the numbers that the other processes of a full table have: beyond all real ones.
const NOBODY: u32 = 1 << 30;

fn forks_are_refused_before_the_tag_table_is_full(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let marks = lab.file("allowed/marks", "")?;
    let (go, marks_name) = (lab.path("go"), marks.display().to_string());
    let words = ["await", &go.to_string_lossy(), ",", "fork-flood", "400", &marks_name];
    let running = lab.run(Mode::Enforce).start_actor(words)?;
    fill_tags(&running, TAGS_REFUSE - ROOM)?;
    fs::write(&go, "")?;
    let outcome = running.finish()?;
    let forks = said(&outcome.stdout, "forks")?;
    ensure!(outcome.stdout.starts_with("denied errno=1 call=fork"), "{outcome}");
    ensure!(forks.abs_diff(ROOM) <= 2, "{forks} forks: {outcome}");
    none_acted_unseen(&outcome, &marks, forks)?;
    ensure!(outcome.stderr.contains("fork refused, tag table full"), "{outcome}");
    // With room the same goes through.
    fs::write(&marks, "")?;
    let twin = lab.run(Mode::Enforce).actor(words)?;
    ensure!(twin.stdout.starts_with("ok forks=400"), "{twin}");
    none_acted_unseen(&twin, &marks, 400)?;
    twin.events.assert_quiet()
}

fn tree_is_killed_before_the_tag_table_is_full(lab: &Lab) -> Result<()> {
    lab.policy(DENYING)?;
    let marks = lab.file("allowed/marks", "")?;
    let (go, actor) = (lab.path("go"), lab.actor()?);
    // The first process calls nothing that is judged while the flood goes on beside it.
    let script = |then: &str| {
        let flood = format!("{} await {} , fork-flood 400", actor.display(), go.display());
        ["/bin/sh".into(), "-c".into(), format!("{flood} {} & {then}", marks.display())]
    };
    let running = lab.run(Mode::Enforce).start(script("exec sleep 100"))?;
    fill_tags(&running, TAGS_SENTENCE - ROOM)?;
    fs::write(&go, "")?;
    let outcome = running.finish()?;
    ensure!(outcome.code() == 128 + libc::SIGKILL, "{outcome}");
    let forks = outcome.events.of("fork").count() as u64;
    ensure!(forks.abs_diff(ROOM) <= 10, "{forks} forks: {outcome}");
    none_acted_unseen(&outcome, &marks, 0)?;
    let said = outcome.events.of("agent").any(|event| event.text("message").contains("too many"));
    ensure!(said && outcome.stderr.contains("server killed, tag table full"), "{outcome}");
    // With room the same goes through.
    fs::write(&marks, "")?;
    let twin = lab.run(Mode::Enforce).start(script("wait"))?.finish()?;
    ensure!(twin.stdout.starts_with("ok forks=400"), "{twin}");
    none_acted_unseen(&twin, &marks, 400)?;
    twin.events.assert_quiet()
}

/// That the processes which left a mark, at least so many, are all in the recording.
fn none_acted_unseen(outcome: &Outcome, marks: &std::path::Path, least: u64) -> Result<()> {
    let acted = fs::metadata(marks)?.len();
    let name = marks.to_string_lossy();
    let opens = outcome.events.of("open").filter(|event| event.names(&name));
    let seen = opens.filter(|event| event.lists("access", "append")).count() as u64;
    ensure!(acted >= least, "only {acted} of {least} acted: {outcome}");
    ensure!(acted <= seen + lost(&outcome.events), "{acted} acted, {seen} seen: {outcome}");
    Ok(())
}

/// Fills the tag table of a monitor whose server waits, up to this number of processes.
fn fill_tags(running: &Running, wanted: u64) -> Result<()> {
    let mut in_use: Array<_, u64> = map_of(running, "TAG_COUNT")?.try_into()?;
    let mut tags: HashMap<_, u32, Tag> = map_of(running, "TAGS")?.try_into()?;
    let used = in_use.get(&0, 0)?;
    let nobodys = Tag { instance: u32::MAX - 1, slot: 0, flags: 0, reserved: 0 };
    for number in 0..u32::try_from(wanted - used)? {
        tags.insert(NOBODY + number, nobodys, 0)?;
    }
    in_use.set(0, wanted, 0)?;
    Ok(())
}

/// A map that a monitor holds, by its name, once it has made it.
fn map_of(running: &Running, name: &str) -> Result<Map> {
    let folder = format!("/proc/{}/fdinfo", running.id());
    let mut found = None;
    crate::eventually(&format!("the monitor has the map {name}"), || {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let ids = texts.filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("map_id:"))?;
            line.trim().parse().ok()
        });
        let mut maps = ids.filter_map(|id| MapData::from_id(id).ok());
        found = maps.find(|map| map.info().is_ok_and(|info| info.name_as_str() == Some(name)));
        found.is_some()
    })?;
    Ok(Map::from_map_data(found.context("just seen")?)?)
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
