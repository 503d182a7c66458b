//! People's alerts: one line that says who did what against which rule, then the chain of
//! processes that led there. Colour only on a terminal; hostile bytes are escaped.

use std::{
    env,
    fmt::{self, Write as _},
    io::{IsTerminal, Write},
};

use monitor_common::policy::verdict;

use super::journal::{Journal, Priority};
use crate::{
    enrich::END,
    event::{Alert, Ancestor, Body, Event, Violation, printable},
    segment::{ChainHash, Checkpoint},
};

/// Characters of one process in a chain.
const COMMAND_MAX: usize = 80;

/// What begins every line but the journal's, which has a field for it.
const PREFIX: &str = "mcp-monitor: ";

/// Writes alerts for people.
pub struct Terminal<W> {
    out: W,
    journal: Option<Journal>,
    colour: bool,
    checkpoints: bool,
}

/// Whether people see colours there: on a terminal, unless NO_COLOR is set.
pub fn shows_colour(place: &impl IsTerminal) -> bool {
    place.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl<W: Write> Terminal<W> {
    /// Writes there; `colour` as [`shows_colour`] says.
    pub fn new(out: W, colour: bool) -> Self {
        Self { out, journal: None, colour, checkpoints: false }
    }

    /// Sends everything to the journal instead, if there is one, with what it is about as fields.
    pub fn with_journal(self, journal: Option<Journal>) -> Self {
        Self { journal, ..self }
    }

    /// Shows checkpoints too: somebody keeps what is written, and it can anchor the recording.
    pub fn with_checkpoints(self, checkpoints: bool) -> Self {
        Self { checkpoints, ..self }
    }

    /// Where it writes.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Hands on what a slow reader has not taken yet.
    pub fn push(&mut self) {
        match &mut self.journal {
            Some(journal) => journal.push(),
            // That nobody reads is no reason to stop.
            None => drop(self.out.flush()),
        }
    }

    /// Shows an alert or a loss; other events are not for people.
    pub fn event(&mut self, event: &Event) {
        let (priority, text) = match (&event.body, &event.violation) {
            (Body::Alert(alert), Some(violation)) => self.alert(event, alert, violation),
            (Body::Loss(loss), _) => {
                let text =
                    format!("{} events are not recorded: {}", loss.count, printable(&loss.reason));
                (Priority::Warning, self.line(33, "loss", &text))
            }
            (Body::Grant { action, grant, .. }, _) => {
                let text = format!("{action}: {grant}");
                (Priority::Notice, self.line(33, "grant", &printable(&text)))
            }
            (Body::Agent { action, .. }, _) if action == END => return,
            (Body::Agent { message, .. }, _) => {
                (Priority::Notice, self.line(33, "agent", &printable(message)))
            }
            _ => return,
        };
        let Some(journal) = &mut self.journal else { return self.show(priority, &text) };
        let (server, instance) = (printable(&event.server), event.instance.to_string());
        let mut fields = Vec::new();
        if event.instance != 0 {
            fields.extend([("MCP_SERVER", &*server), ("MCP_INSTANCE", &instance)]);
        }
        if let (Body::Alert(_), Some(violation)) = (&event.body, &event.violation) {
            fields.push(("MCP_CATEGORY", violation.category.name()));
        }
        journal.send(priority, bare(&text), &fields);
    }

    /// Shows a checkpoint, where that is wanted.
    pub fn checkpoint(&mut self, chain: ChainHash, checkpoint: &Checkpoint) {
        if self.checkpoints {
            let before = checkpoint.next_seq;
            let text = self.line(33, "checkpoint", &format!("{chain} before seq {before}"));
            self.show(Priority::Info, &text);
        }
    }

    /// Shows what is no event.
    pub fn say(&mut self, message: &str) {
        self.show(Priority::Notice, &self.line(33, "agent", &printable(message)));
    }

    /// One write, so that lines of the server do not come between.
    fn show(&mut self, priority: Priority, text: &str) {
        match &mut self.journal {
            Some(journal) => journal.send(priority, bare(text), &[]),
            None => {
                // As in `push`.
                let _ = self.out.write_all(text.as_bytes());
                let _ = self.out.flush();
            }
        }
    }

    fn alert(&self, event: &Event, alert: &Alert, violation: &Violation) -> (Priority, String) {
        let strong = violation.decision.verdict >= verdict::DENY && !violation.observed_only;
        let what = format!("{}: {}", printable(&event.server), printable(&alert.why),);
        let mut text = self.line(if strong { 31 } else { 33 }, violation.category.name(), &what);
        if !alert.ancestry.is_empty() {
            let chain: Vec<String> =
                alert.ancestry.iter().map(|ancestor| Command(ancestor).to_string()).collect();
            let chain = chain.join(" > ");
            // Writing to a String does not fail.
            let _ = match self.colour {
                true => writeln!(text, "    \x1b[2m{chain}\x1b[0m"),
                false => writeln!(text, "    {chain}"),
            };
        }
        (if strong { Priority::Error } else { Priority::Warning }, text)
    }

    fn line(&self, colour: u8, label: &str, text: &str) -> String {
        if self.colour {
            format!("{PREFIX}\x1b[1;{colour}m{label}\x1b[0m {text}\n")
        } else {
            format!("{PREFIX}{label}: {text}\n")
        }
    }
}

/// A line as the journal has it.
fn bare(text: &str) -> &str {
    text.strip_prefix(PREFIX).unwrap_or(text).trim_end()
}

/// A process of a chain: the program that runs, not what it calls itself, and its arguments.
struct Command<'a>(&'a Ancestor);

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ancestor { tgid, exe, argv, .. } = self.0;
        let mut text = match exe.is_empty() {
            true => "?".to_owned(),
            false => exe.shown().to_string(),
        };
        for argument in argv.iter().skip(1) {
            write!(text, " {}", argument.shown())?;
        }
        if let Some((end, _)) = text.char_indices().nth(COMMAND_MAX) {
            text.truncate(end);
            text.push('…');
        }
        write!(f, "{text} ({tgid})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Bytes, tests::sample};

    fn alert(why: &str) -> Event {
        let ancestor = |tgid, exe: &str, argv: &[&str]| Ancestor {
            tgid,
            start_ns: 1,
            exe: exe.into(),
            argv: argv.iter().map(|argument| Bytes::from(*argument)).collect(),
        };
        let mut event = sample(b"/x");
        event.body = Body::Alert(Box::new(Alert {
            event: "open".into(),
            subject: "/x".into(),
            why: why.to_owned(),
            count: 1,
            ancestry: vec![
                ancestor(9, "/usr/bin/node", &["node", "server.js"]),
                ancestor(10, "/bin/cat\x1b[2J", &["\u{202e}", "/x"]),
            ],
            evidence: vec![41],
            finding: None,
        }));
        event
    }

    fn shown(event: &Event, colour: bool) -> String {
        let mut out = Vec::new();
        Terminal::new(&mut out, colour).event(event);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_alert_is_a_line_and_its_chain() {
        assert_eq!(
            shown(&alert("cat (10) opens to read /x: it is in the set secrets; denied"), false),
            "mcp-monitor: secret: github: cat (10) opens to read /x: it is in the set secrets; \
             denied\n    /usr/bin/node server.js (9) > /bin/cat\\x1b[2J /x (10)\n"
        );
    }

    #[test]
    fn hostile_bytes_do_not_reach_the_terminal() {
        for colour in [false, true] {
            let text = shown(&alert("a\x1b]0;title\x07\u{202e}\r\nb"), colour);
            let text = text.replace("\x1b[1;33m", "").replace("\x1b[0m", "").replace("\x1b[2m", "");
            assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            assert!(!text.contains('\u{202e}'));
            assert_eq!(text.lines().count(), 2);
        }
    }

    #[test]
    fn events_that_are_not_for_people_are_not_shown() {
        assert_eq!(shown(&sample(b"/x"), true), "");
    }
}
