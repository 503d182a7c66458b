//! The package as people have it: installed by dpkg on a machine that Debian's systemd boots, which
//! `cargo xtask vm-test --systemd` does. The steps are tests that build on each other, in this order.
//!
//! The packages lie beside this program: one, and the same as a later version.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};

mod containers;
mod machine;
mod served;
mod steps;

/// Name and body of a step.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 12] = [
    ("package_is_installed_and_the_unit_is_ready", steps::install),
    ("unit_is_exposed_to_little", steps::exposure),
    ("agent_that_hangs_is_restarted", steps::watchdog),
    ("server_of_a_member_of_the_group_is_judged", steps::serve),
    ("journal_has_alerts_with_their_fields", steps::journal),
    ("alert_starts_a_command_within_the_units_limits", steps::on_alert),
    ("reload_takes_new_rules_over", steps::reload),
    ("servers_outlive_a_restart", steps::restart),
    ("containers_of_root_are_judged", containers::of_root),
    ("containers_of_users_are_judged", containers::of_a_user),
    ("upgrade_leaves_no_gap", steps::upgrade),
    ("removal_and_purge_leave_nothing", steps::remove),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = STEPS.map(|(name, step)| {
        let perform = move || step().map_err(|error| Failed::from(format!("{error:#}")));
        Trial::test(format!("systemd::{name}"), perform)
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}
