//! Booting a test machine and listening to it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Kernel;
use crate::command::find;
use crate::workspace;

/// A machine's processors.
#[derive(Clone, Copy, Debug)]
pub enum Processors {
    /// Two that take turns. With two at the same time a kernel has panicked over a breakpoint that was
    /// its own and gone (`Oops: int3`, QEMU 7.2): attaching programs changes code, and one thread of
    /// the emulator seems to keep what it translated while another one changed it.
    InTurn,
    /// Two at the same time.
    AtOnce,
    /// One whose nanosecond is an instruction: what it measures is the same whatever else runs here.
    Counted,
}

impl Processors {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::InTurn => &["-accel", "tcg,thread=single", "-smp", "2"],
            Self::AtOnce => &["-accel", "tcg,thread=multi", "-smp", "2"],
            Self::Counted => {
                &["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off"]
            }
        }
    }
}

/// One boot of the matrix.
#[derive(Clone, Debug)]
pub struct Boot {
    /// A short name: begins the lines of its output, and its console's file.
    pub name: String,
    /// The kernel.
    pub kernel: Kernel,
    /// Whether tasks are preempted inside hooks, too (`preempt=full`).
    pub preempt_full: bool,
    /// Its processors.
    pub processors: Processors,
    /// What runs in it, found on its PATH: `end-to-end`, `mcp-monitor`, busybox's tools.
    pub command: Vec<String>,
    /// How long it may say nothing: what takes long in all only shares the processors.
    pub patience: Duration,
}

/// Boots the image (whose changes are thrown away), hands every line of the command's output on,
/// and returns its exit code.
pub fn boot(what: &Boot, image: &Path, mut line: impl FnMut(&str)) -> Result<i32> {
    let console = workspace::target().join(format!("machine/{}.console", what.name));
    let mut machine = Machine::start(what, image, &console)?;
    let output = machine.0.stdout.take().context("QEMU has no output")?;
    let (sender, receiver) = mpsc::channel();
    // Ends with QEMU, which closes its output.
    let reader = thread::spawn(move || {
        for bytes in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let _ = sender.send(String::from_utf8_lossy(&bytes).trim_end().to_owned());
        }
    });
    let mut code = None;
    loop {
        match receiver.recv_timeout(what.patience) {
            Ok(text) => match text.strip_prefix("init: exit code ") {
                Some(number) => code = number.parse().ok(),
                None => line(&text),
            },
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                drop(machine);
                bail!("{} said nothing for {:?}: {}", what.name, what.patience, tail(&console));
            }
        }
    }
    reader.join().ok();
    code.with_context(|| format!("{} ended before its command: {}", what.name, tail(&console)))
}

/// A running QEMU, ended when dropped.
struct Machine(Child);

impl Machine {
    fn start(what: &Boot, image: &Path, console: &Path) -> Result<Self> {
        let qemu = find("qemu-system-x86_64");
        let qemu = qemu.context("qemu-system-x86_64 is missing: run `cargo xtask setup`")?;
        let preempt = if what.preempt_full { " preempt=full" } else { "" };
        let append = format!(
            "root=/dev/nvme0n1 rw init=/init console=ttyS0 quiet panic=-1{preempt} -- {}",
            command_line(&what.command)?
        );
        let mut command = Command::new(qemu);
        command.args(what.processors.arguments());
        command.args(["-cpu", "max", "-m", "2048"]);
        command.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        command.args(["-serial", &format!("file:{}", console.display()), "-serial", "stdio"]);
        command.args(["-device", "nvme,drive=disk,serial=1", "-drive"]);
        command.arg(format!("file={},format=raw,if=none,id=disk,snapshot=on", image.display()));
        command.arg("-kernel").arg(what.kernel.image()?).args(["-append", &append]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(command.spawn().context("cannot start QEMU")?))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It is gone already unless the time was up; both calls then do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command as the kernel hands it to init: words apart by spaces, quoted where they hold some.
fn command_line(command: &[String]) -> Result<String> {
    // The kernel panics where init has more arguments than this.
    const MOST: usize = 32;
    let unfit = |word: &String| word == "--" || word.contains('"');
    if command.len() >= MOST || command.iter().any(unfit) {
        bail!(
            "a machine's command has fewer than {MOST} words, none of them `--` and none with \
             quotation marks: put {command:?} into sh -c"
        );
    }
    let words = command.iter().map(|word| match word.contains(' ') {
        true => format!("\"{word}\""),
        false => word.clone(),
    });
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// The last lines of the kernel's console, where a panic stands.
fn tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(30)..];
    format!("{} says:\n{}", console.display(), last.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> Result<String> {
        command_line(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_with_spaces_reach_init_whole() -> Result<()> {
        assert_eq!(line(&["sh", "-c", "uname -a"])?, "sh -c \"uname -a\"");
        Ok(())
    }

    #[test]
    fn words_that_the_kernel_would_cut_are_refused() {
        assert!(line(&["run", "--", "true"]).is_err());
        assert!(line(&["echo", "\"quoted\""]).is_err());
        assert!(line(&["word"; 32]).is_err() && line(&["word"; 31]).is_ok());
    }
}
