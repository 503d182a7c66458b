//! While the server runs: waits, reads the rings, answers, handles signals; then the end.

use std::{io::Write as _, os::fd::AsFd as _, time::Duration};

use monitor_common::record::{Record, counter};

use super::say;
use crate::{
    kernel::Kernel,
    launch::{Ended, Server, signals::Signals},
    names::Service,
    pipeline::{self, Pipeline, Sinks},
    respond::{self, Answer},
    sink::{recording::Totals, stderr::Stderr, summary::Summary},
    waiter::Waiter,
};

/// Longest time without a look at the quiet rings.
const IDLE: Duration = Duration::from_millis(200);

/// Said when the tag table has no more room. The kernel has sentenced the tree already, but one of
/// its processes may call nothing that is judged.
const TOO_MANY: &str = "there are too many processes to watch: the server is killed";

/// Everything that is alive while the server runs. Dropped in this order: the server's tree is
/// gone before the kernel programs are.
pub struct Run {
    /// The server.
    pub server: Server,
    /// From rings to sinks.
    pub pipeline: Pipeline<Stderr, Summary>,
    /// The monitor's signals.
    pub signals: Signals,
    /// The kernel programs.
    pub kernel: Kernel,
    /// The server's DNS, when its rules name hosts.
    pub names: Option<Service>,
    /// The only instance.
    pub instance: u32,
    /// The server's name.
    pub name: String,
    /// A verdict has ended the tree.
    pub sentenced: bool,
}

impl Run {
    /// Watches until the server has ended; its exit code.
    ///
    /// # Errors
    /// When the kernel refuses what watching takes. The tree is ended then.
    pub fn watch(mut self, is_root: bool) -> anyhow::Result<u8> {
        if is_root {
            self.warn_of_root();
        }
        let mut waiter = Waiter::new(self.pipeline.rings())?;
        waiter.add(self.signals.as_fd())?;
        if let Some(descriptor) = self.names.as_ref().and_then(Service::descriptor) {
            waiter.add(descriptor)?;
        }
        let ended = self.until_end(&mut waiter)?;
        self.end(ended)
    }

    /// Says that the server runs as root, and what that means.
    fn warn_of_root(&mut self) {
        // A server that has ended already holds nothing.
        let held = self.server.undoing_capabilities().unwrap_or_default();
        let so = match held.is_empty() {
            true => String::new(),
            false => format!(" with {}, and can undo any enforcement", held.join(", ")),
        };
        let message = format!(
            "the server runs as root{so}: start mcp-monitor through sudo from your own account, \
             and the server runs as you"
        );
        self.pipeline.agent(self.instance, "root", &message);
    }

    fn until_end(&mut self, waiter: &mut Waiter) -> anyhow::Result<Ended> {
        loop {
            let Self { pipeline, server, names, kernel, instance, .. } = self;
            if let Some(names) = names {
                pipeline.names(*instance, names.serve(kernel));
            }
            let mut tree_must_die = false;
            let look = pipeline.pump(&mut |record| tree_must_die |= answer(record, server));
            if tree_must_die {
                server.tree().kill_strays();
                self.sentenced = true;
            }
            let mut has_room = true;
            pipeline.tick(|| {
                let counters = pipeline::counters(&self.kernel);
                has_room =
                    counters.as_ref().is_ok_and(|all| all[counter::TAG_FAILED as usize] == 0);
                counters
            })?;
            if !has_room && !self.sentenced {
                server.tree().kill()?;
                server.tree().kill_strays();
                self.sentenced = true;
                pipeline.agent(self.instance, "processes", TOO_MANY);
            }
            self.kernel.flush_diagnostics();
            if let Some(ended) = server.handle(&self.signals)? {
                return Ok(ended);
            }
            waiter.wait(look, IDLE)?;
        }
    }

    /// Ends what is left of the tree, reads the rest, and says what happened.
    fn end(self, ended: Ended) -> anyhow::Result<u8> {
        let Self { mut pipeline, server, mut kernel, names, instance, name, sentenced, .. } = self;
        if ended == Ended::Unguarded {
            let message = "the guard process was killed, and the server with it";
            pipeline.agent(instance, "guard", message);
        }
        match server.tree().end() {
            Ok(left) if !left || sentenced => {}
            Ok(_) => pipeline.agent(
                instance,
                "remainder",
                "the server's first process has ended; what it left running was killed",
            ),
            Err(error) => pipeline.agent(instance, "remainder", &error.to_string()),
        }
        if let Some(names) = names {
            pipeline.names(instance, names.finish(&mut kernel));
        }
        let (sinks, totals) = pipeline.finish(&mut |_| {}, || pipeline::counters(&kernel))?;
        drop(server);
        summarise(sinks, &name, &totals);
        kernel.let_go();
        Ok(ended.exit_code())
    }
}

/// Carries out what the kernel left to do; whether the whole tree was meant. A failure is said at
/// once: the verdict stands in the stream as carried out.
fn answer(record: &Record, server: &Server) -> bool {
    match respond::carry_out(record, server.tree()) {
        Ok(answer) => answer == Answer::Tree,
        Err(error) => {
            say(&format!("cannot kill instance {}: {error}", record.instance));
            false
        }
    }
}

fn summarise(mut sinks: Sinks<Stderr, Summary>, server: &str, totals: &Totals) {
    let mut text = Vec::new();
    if sinks.audience.write(&mut text, server, Some(totals)).is_ok() {
        let out = sinks.terminal.out();
        // Holds the text for a slow reader, and never fails.
        let _ = out.write_all(&text);
        out.finish();
    }
}
