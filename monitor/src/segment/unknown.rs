//! What a recording without faults does not prove, for people.

use super::{Report, Trust, checkpoint::hex};
use crate::event::Shown;

impl Report {
    /// What cannot be known of a recording, in sentences.
    pub fn unknown(&self, trust: &Trust) -> Vec<String> {
        let mut unknown = Vec::new();
        if let Some(follows) = &self.follows {
            unknown.push(format!(
                "it goes on from a line with chain {follows}, which is not here: earlier segments were \
                 deleted, by the retention or by somebody"
            ));
        }
        let behind = match &self.signed {
            Some(signed) => self.lines - signed.lines,
            None => self.lines,
        };
        match &self.signed {
            None if self.bad.is_some() => {
                unknown.push("no checkpoint stands before what is wrong: nothing is sure".to_owned());
            }
            None => unknown.push(
                "it is not signed: whoever could write the file could make all of it anew".to_owned(),
            ),
            Some(signed) if !trust.keys.contains(&signed.checkpoint.key) => unknown.push(format!(
                "it is signed with key {}, which nothing here vouches for: name the host's audit.pub \
                 with --key",
                hex(&signed.checkpoint.key)
            )),
            Some(_) => {}
        }
        if self.signed.is_some() && behind != 0 {
            unknown.push(format!(
                "{behind} lines stand behind the last checkpoint: nothing shows that they are as they \
                 were written"
            ));
        }
        if let Some((at, count)) = self.joints.as_ref().filter(|_| self.signed.is_some()) {
            unknown.push(format!(
                "at line {} of {} it was continued behind an end that no checkpoint closed \
                 ({count} times in all): lines may have been cut off there",
                at.line,
                Shown(at.file.as_os_str().as_encoded_bytes())
            ));
        }
        if self.writing {
            unknown.push("it is being written: its end is not yet there".to_owned());
        } else if !self.ended && self.bad.is_none() {
            unknown.push(
                "unanchored end: it does not end with a closing checkpoint, so that its monitor \
                 was killed, its disk was full, or its end was cut off"
                    .to_owned(),
            );
        }
        unknown.push(match &self.anchor {
            Some(at) => format!(
                "behind line {} of {}, whose chain you kept, root on the host could have signed \
                 anything anew",
                at.line,
                Shown(at.file.as_os_str().as_encoded_bytes())
            ),
            None => {
                "unanchored: root on the host could have made and signed all of it anew; keep a \
                     checkpoint elsewhere and name it with --checkpoint"
                    .to_owned()
            }
        });
        unknown
    }
}
