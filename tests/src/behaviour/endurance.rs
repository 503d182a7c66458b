//! A little of what the agent has to stand, see [`crate::endurance`].

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::{
    Lab,
    endurance::{self, IDLE_BYTES_MAX, IDLE_SHARE_MAX},
};

crate::tests! {
    both: [
        idle_agent_takes_next_to_nothing,
        instances_at_once_have_rules_of_their_own,
        instances_that_end_leave_nothing_with_the_agent,
        killing_the_agent_changes_no_verdict,
    ],
}

/// An emulated processor takes ten times as long for everything.
const EMULATED: f64 = 10.0;

fn idle_agent_takes_next_to_nothing(lab: &Lab) -> Result<()> {
    let idle = endurance::idle(lab, Duration::from_secs(10))?;
    ensure!(idle.share < IDLE_SHARE_MAX * EMULATED, "{idle:?}");
    ensure!(idle.bytes < IDLE_BYTES_MAX, "{idle:?}");
    Ok(())
}

fn instances_at_once_have_rules_of_their_own(lab: &Lab) -> Result<()> {
    endurance::at_once(lab, 6).map(drop)
}

fn instances_that_end_leave_nothing_with_the_agent(lab: &Lab) -> Result<()> {
    endurance::one_after_another(lab, 20).map(drop)
}

fn killing_the_agent_changes_no_verdict(lab: &Lab) -> Result<()> {
    endurance::kills(lab, 4).map(drop)
}
