//! A real browser, headless: what it makes of a page, and what it complains about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::{Lab, skip};
use crate::run::MARKER;

const PROGRAMS: [&str; 3] =
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
/// A page takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);
/// It contacts nobody, keeps nothing, and runs as root.
const OPTIONS: [&str; 15] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-pdf-header-footer",
    "--enable-logging=stderr",
    "--log-level=0",
];

/// Chromium with a profile of the test's own.
pub struct Browser<'a> {
    lab: &'a Lab,
    program: &'static str,
}

/// What came of a page.
pub struct Visit {
    /// The document after its scripts have run.
    pub dom: String,
    /// What the page's scripts and policy complained about.
    pub complaints: Vec<String>,
}

impl<'a> Browser<'a> {
    /// The browser of this machine; the test is skipped where there is none.
    pub fn of(lab: &'a Lab) -> Result<Self> {
        match PROGRAMS.into_iter().find(|program| Path::new(program).exists()) {
            Some(program) => Ok(Self { lab, program }),
            None => skip("no Chromium here: `cargo xtask test` installs it where apt can"),
        }
    }

    /// Opens a page.
    pub fn visit(&self, page: &Path) -> Result<Visit> {
        // Time passes as fast as the page's timers can follow.
        let options = ["--dump-dom", "--virtual-time-budget=3000"].map(str::to_owned);
        let (dom, said) = self.run(&options, page)?;
        let complaints = said.lines().filter(|line| line.contains(":CONSOLE"));
        Ok(Visit { dom, complaints: complaints.map(str::to_owned).collect() })
    }

    /// Prints a page.
    pub fn print(&self, page: &Path) -> Result<Vec<u8>> {
        self.written(page, "--print-to-pdf", "print.pdf", &[])
    }

    /// Takes a picture of a page.
    pub fn picture(&self, page: &Path, more: &[&str]) -> Result<Vec<u8>> {
        self.written(page, "--screenshot", "picture.png", more)
    }

    fn written(&self, page: &Path, option: &str, name: &str, more: &[&str]) -> Result<Vec<u8>> {
        let file = self.lab.folder().join(name);
        let mut options = vec![format!("{option}={}", file.display())];
        options.extend(more.iter().map(|option| (*option).to_owned()));
        let (_, said) = self.run(&options, page)?;
        let written = fs::read(&file).with_context(|| format!("{option} wrote nothing: {said}"))?;
        fs::remove_file(&file)?;
        Ok(written)
    }

    fn run(&self, options: &[String], page: &Path) -> Result<(String, String)> {
        let place = |name: &str| -> PathBuf { self.lab.folder().join(name) };
        let (stdout, stderr) = (place("browser.stdout"), place("browser.stderr"));
        let mut command = Command::new(self.program);
        command.args(OPTIONS).args(options);
        command.arg(format!("--user-data-dir={}", place("browser").display()));
        command.arg(format!("file://{}", page.display()));
        command.env("HOME", self.lab.home()).env(MARKER, self.lab.marker());
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(&stdout)?).stderr(fs::File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program))?;
        let ended = Ending(child).wait();
        let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let (stdout, stderr) = (read(&stdout)?, read(&stderr)?);
        ended.with_context(|| stderr.clone())?;
        Ok((stdout, stderr))
    }
}

/// A browser that ends with this value.
struct Ending(Child);

impl Ending {
    fn wait(mut self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.0.try_wait()? {
                if !status.success() {
                    bail!("the browser ended with {status}");
                }
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the browser did not end in {PATIENCE:?}")
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Where it has ended both calls do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
