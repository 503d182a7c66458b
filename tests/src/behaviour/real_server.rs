//! A real server does its work under the product's own rules, and the same package after a
//! hostile update is stopped: both halves of `cargo xtask demo`, as tests.

use std::env;
use std::future::Future;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::demo::turncoat::{Reach, attempt};
use crate::demo::{Scene, honest};
use crate::run::MARKER;
use crate::{Lab, skip};

crate::tests! {
    both: [
        filesystem_server_works_under_its_rules,
        turncoat_does_not_get_a_private_key,
        turncoat_does_not_get_another_environment,
        turncoat_does_not_reach_an_unlisted_address,
    ],
}

fn filesystem_server_works_under_its_rules(lab: &Lab) -> Result<()> {
    let script = honest::script(&installed()?)?;
    block_on(async { honest::perform(&scene(lab)?, &script).await?.verify() })
}

fn turncoat_does_not_get_a_private_key(lab: &Lab) -> Result<()> {
    is_stopped(lab, Reach::Key)
}

fn turncoat_does_not_get_another_environment(lab: &Lab) -> Result<()> {
    is_stopped(lab, Reach::Environment)
}

fn turncoat_does_not_reach_an_unlisted_address(lab: &Lab) -> Result<()> {
    is_stopped(lab, Reach::Address)
}

fn is_stopped(lab: &Lab, reach: Reach) -> Result<()> {
    installed()?;
    block_on(async {
        let scene = scene(lab)?;
        attempt(&scene, reach, false).await?.verify_success()?;
        attempt(&scene, reach, true).await?.verify_stopped()
    })
}

fn scene(lab: &Lab) -> Result<Scene> {
    let folder = lab.folder().join("scene");
    std::fs::create_dir(&folder)?;
    let scene = Scene::new(&folder, &lab.monitor()?, Some(lab.backend()))?;
    Ok(scene.env(MARKER, lab.marker()))
}

/// Where `cargo xtask test` had npm install the real server.
pub fn installed() -> Result<PathBuf> {
    match env::var_os("MCP_MONITOR_REAL_SERVERS") {
        Some(folder) => Ok(folder.into()),
        None => skip("no real server is installed here: `cargo xtask test` does it, with npm"),
    }
}

/// Runs what needs an executor.
///
/// # Errors
/// When there is none, and those of the test.
pub fn block_on<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the client")?.block_on(test)
}
