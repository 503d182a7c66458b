//! The machine under test is what the other tests take it for: without this, a missing mount or
//! kernel option would show as forty odd failures.

use std::fs;

use anyhow::{Context, Result};

use crate::Lab;

crate::tests! {
    both: [kernel_describes_its_types, preemption_is_as_booted, unified_cgroups_are_mounted],
    lsm: [bpf_is_among_the_lsms],
}

fn kernel_describes_its_types(_: &Lab) -> Result<()> {
    let btf = fs::metadata("/sys/kernel/btf/vmlinux").context("no BTF: kernel too old")?;
    assert!(btf.len() > 1 << 20, "BTF of {} bytes", btf.len());
    Ok(())
}

fn preemption_is_as_booted(_: &Lab) -> Result<()> {
    let command_line = fs::read_to_string("/proc/cmdline")?;
    if command_line.contains("preempt=full") {
        let modes = fs::read_to_string("/sys/kernel/debug/sched/preempt").context("debugfs")?;
        assert!(modes.contains("(full)"), "preemption modes: {modes}");
    }
    Ok(())
}

fn unified_cgroups_are_mounted(lab: &Lab) -> Result<()> {
    let root = lab.cgroups()?;
    assert!(root.join("cgroup.procs").is_file(), "{} is no cgroup", root.display());
    Ok(())
}

fn bpf_is_among_the_lsms(_: &Lab) -> Result<()> {
    let list = fs::read_to_string("/sys/kernel/security/lsm").context("securityfs")?;
    assert!(list.split(',').any(|lsm| lsm == "bpf"), "lsm list: {list}");
    Ok(())
}
