//! A report of a real incident in a real browser: it opens without a complaint, runs no script but
//! its own, filters, prints, and shows hostile names as text.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::browser::Browser;
use crate::{Lab, Mode};

// The browser is on the host alone, and the host has the tracepoint backend.
crate::tests! {
    tracepoint: [
        report_opens_in_a_browser_and_runs_nothing_but_its_own_script,
        report_can_be_filtered_and_used_by_keyboard,
        report_prints_and_adapts_to_screens,
        report_tells_of_secret_and_persistence_and_not_of_honest_work,
    ],
}

/// Names that want to be more than names.
const HOSTILE: [&[u8]; 4] = [
    b"<script>document.title='stolen'<!--",
    b"\" onload=\"document.title='stolen'",
    b"<img src=x onerror=document.title='stolen'>",
    b"a\xe2\x80\xaegpj.exe\x1b[2J\xff",
];

/// A server that works, reads a key, plants something that runs later, and writes hostile names.
fn incident(lab: &Lab) -> Result<PathBuf> {
    let key = lab.file(".ssh/id_ed25519", "not a key")?;
    let profile = lab.file(".bashrc", "")?;
    for name in HOSTILE {
        let path = lab.path("work").join(OsStr::from_bytes(name));
        // A slash in a name makes folders; the names have none.
        fs::create_dir_all(lab.path("work"))?;
        fs::write(path, "")?;
    }
    let script = format!(
        "cat {0}/work/*; cat {1} > {0}/work/copy; echo evil >> {2}; rm {0}/work/copy",
        lab.home().display(),
        key.display(),
        profile.display()
    );
    let outcome = lab.run(Mode::Observe).command(["/bin/sh", "-c", &script])?;
    outcome.events.violation("open", "secret", &key)?;
    report(lab, "incident.html")
}

/// The report of the latest run.
fn report(lab: &Lab, name: &str) -> Result<PathBuf> {
    let page = lab.folder().join(name);
    let mut command = Command::new(lab.monitor()?);
    command.arg("report").arg(lab.folder().join("events-1.jsonl")).arg("-o").arg(&page);
    let output = command.output().context("cannot start mcp-monitor report")?;
    ensure!(output.status.success(), "{output:?}");
    Ok(page)
}

/// The page with something put in before the end of its body, and without its policy if asked.
fn variant(page: &Path, put_in: &str, has_policy: bool) -> Result<PathBuf> {
    let mut text = fs::read_to_string(page)?;
    if !has_policy {
        let start = text.find("<meta http-equiv").context("the page has a policy")?;
        let end = start + text[start..].find('>').context("the element ends")? + 1;
        text.replace_range(start..end, "");
    }
    let path = page.with_extension("variant.html");
    fs::write(&path, text.replace("</body>", &format!("{put_in}</body>")))?;
    Ok(path)
}

fn report_opens_in_a_browser_and_runs_nothing_but_its_own_script(lab: &Lab) -> Result<()> {
    let browser = Browser::of(lab)?;
    let page = incident(lab)?;
    let visit = browser.visit(&page)?;
    ensure!(visit.complaints.is_empty(), "{:?}", visit.complaints);
    ensure!(!visit.dom.contains("<title>stolen"), "a name ran as a script");
    ensure!(!visit.dom.contains("<img"), "a name became an element");
    ensure!(visit.dom.contains("&lt;img src=x onerror="), "the name is shown");
    ensure!(visit.dom.contains("\\u{202e}"), "the mark is made visible");
    ensure!(!visit.dom.contains('\u{202e}'), "the mark works");

    let put_in = "<script>document.title='stolen'</script><img src=x onerror=\"document.title='stolen'\">";
    let visit = browser.visit(&variant(&page, put_in, true)?)?;
    ensure!(!visit.dom.contains("<title>stolen"), "the policy lets foreign scripts run");
    ensure!(visit.complaints.iter().any(|line| line.contains("Content Security Policy")));
    let visit = browser.visit(&variant(&page, put_in, false)?)?;
    ensure!(visit.dom.contains("<title>stolen"), "the test itself shows nothing");
    Ok(())
}

/// What a person does at the page, and what is then to be seen, as the page's title.
const DRIVER: &str = r#"<script>
const key = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const seen = () => [...document.querySelectorAll(".row")].filter((row) => !row.hidden);
const all = seen().length;
const said = [];
key("/");
said.push(document.activeElement.id === "filter");
const input = document.getElementById("filter");
input.value = "id_ed25519";
input.dispatchEvent(new Event("input"));
setTimeout(() => {
  said.push(seen().length > 0 && seen().length < all);
  said.push(seen().every((row) => row.dataset.f.includes("id_ed25519")));
  said.push(document.getElementById("shown").textContent.includes(" of "));
  input.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  said.push(seen().length === all && input.value === "");
  key("o");
  said.push([...document.querySelectorAll("details")].every((details) => details.open));
  key("o");
  said.push([...document.querySelectorAll("details")].every((details) => !details.open));
  key("n");
  said.push(document.activeElement.tagName === "H2");
  document.querySelector('[data-level="critical"][aria-pressed]').click();
  const levels = seen().map((row) => row.dataset.level).filter(Boolean);
  said.push(levels.length > 0 && levels.every((level) => level === "critical"));
  said.push([...document.querySelectorAll("a[href^='#']")].every((link) =>
    document.getElementById(link.getAttribute("href").slice(1)) !== null));
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  said.push(new Set(ids).size === ids.length);
  said.push([...document.querySelectorAll("[aria-labelledby]")].every((element) =>
    document.getElementById(element.getAttribute("aria-labelledby")) !== null));
  document.title = "said " + said.join(" ");
}, 300);
</script>"#;

fn report_can_be_filtered_and_used_by_keyboard(lab: &Lab) -> Result<()> {
    let browser = Browser::of(lab)?;
    let page = incident(lab)?;
    let visit = browser.visit(&variant(&page, DRIVER, false)?)?;
    let title = visit.dom.split("<title>").nth(1).and_then(|rest| rest.split('<').next());
    let expected = format!("said{}", " true".repeat(12));
    ensure!(title == Some(expected.as_str()), "{title:?}: {:?}", visit.complaints);
    Ok(())
}

fn report_prints_and_adapts_to_screens(lab: &Lab) -> Result<()> {
    let browser = Browser::of(lab)?;
    let page = incident(lab)?;
    let print = browser.print(&page)?;
    ensure!(print.starts_with(b"%PDF") && print.len() > 20_000, "{} bytes", print.len());
    let wide = "--window-size=1320,1600";
    let dark = "--blink-settings=preferredColorScheme=0";
    let light = browser.picture(&page, &[wide])?;
    let dark = browser.picture(&page, &[wide, dark])?;
    let narrow = browser.picture(&page, &["--window-size=500,1600"])?;
    for picture in [&light, &dark, &narrow] {
        ensure!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{}", picture.len());
    }
    ensure!(light != dark, "dark is light");
    Ok(())
}

fn report_tells_of_secret_and_persistence_and_not_of_honest_work(lab: &Lab) -> Result<()> {
    let page = fs::read_to_string(incident(lab)?)?;
    for expected in ["It reached 1 secret", "runs later", "SSH keys", "killed, perhaps"] {
        let is_told = page.contains(expected);
        ensure!(is_told == (expected != "killed, perhaps"), "{expected}: {is_told}");
    }
    let quiet = lab.file("notes.txt", "plain")?;
    fs::remove_file(lab.folder().join("events-1.jsonl"))?;
    lab.run(Mode::Observe).command(["/bin/cat".as_ref(), quiet.as_os_str()])?;
    fs::rename(lab.folder().join("events-2.jsonl"), lab.folder().join("events-1.jsonl"))?;
    let page = fs::read_to_string(report(lab, "quiet.html")?)?;
    ensure!(page.contains("Nothing in these recordings broke the rules badly"));
    ensure!(page.contains("notes.txt") && !page.contains("It reached"));
    Ok(())
}
