//! The DNS of one instance whose rules name hosts: its stub, the policy that it is under, and the
//! kernel's tables. While the stub does not answer, the kernel refuses the instance's DNS.

use std::{
    fs, io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use super::{Answered, Stub, Under};
use crate::{
    enrich::clock,
    kernel::{Kernel, Slot},
    rules::Compiled,
};

/// Where the host names its resolvers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where names of hosts stand that nobody is asked for.
const HOSTS: &str = "/etc/hosts";

/// See the module.
pub struct Service {
    instance: u32,
    policy: u32,
    slot: Slot,
    rules: Arc<Compiled>,
    stub: Option<Stub>,
    /// What people should know and have not been told.
    notes: Vec<String>,
}

impl Service {
    /// Begins to listen for an instance that will be under policy number `policy`, installed in
    /// `slot`, and takes in what `/etc/hosts` says. What cannot be listened on is told by
    /// [`Service::serve`].
    pub fn start(
        kernel: &mut Kernel,
        instance: u32,
        policy: u32,
        slot: Slot,
        rules: Arc<Compiled>,
    ) -> Self {
        let mut service = Self { instance, policy, slot, rules, stub: None, notes: Vec::new() };
        match Stub::open(RESOLV_CONF.into()) {
            Ok(stub) => service.stub = Some(stub),
            Err(error) => service.down(kernel, &error),
        }
        // A machine without the file has none of its names.
        let hosts = fs::read_to_string(HOSTS).unwrap_or_default();
        service.with_stub(kernel, |stub, under| stub.hosts(&hosts, under));
        service
    }

    /// Lets the instance connect to where answers have led it under the policy before, as far as
    /// this one names the hosts: its own caches go on.
    pub fn take_over(&mut self, before: &Self, kernel: &mut Kernel) {
        if let Some(other) = &before.stub {
            self.with_stub(kernel, |stub, under| stub.take_over(other, under));
        }
    }

    /// Port of loopback at which the instance's DNS is answered, 0 when it is not: see
    /// [`Kernel::answer_dns`].
    pub fn port(&self) -> u16 {
        self.stub.as_ref().map_or(0, Stub::port)
    }

    /// What to wait on, while it listens.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.stub.as_ref().map(|stub| stub.as_fd())
    }

    /// Answers what has been asked, without waiting. Questions that have been answered, and what
    /// people should know. To be called whenever the descriptor is ready, and several times a second.
    pub fn serve(&mut self, kernel: &mut Kernel) -> (Vec<Answered>, Vec<String>) {
        if let Some(Err(error)) = self.with_stub(kernel, Stub::serve) {
            self.stub = None;
            self.down(kernel, &error);
        }
        let (answered, notes) = self.stub.as_mut().map(Stub::told).unwrap_or_default();
        self.notes.extend(notes);
        (answered, std::mem::take(&mut self.notes))
    }

    /// The end of the instance: questions whose answers have not come are told, too.
    pub fn finish(mut self, kernel: &mut Kernel) -> (Vec<Answered>, Vec<String>) {
        self.with_stub(kernel, Stub::finish);
        let (answered, notes) = self.stub.as_mut().map(Stub::told).unwrap_or_default();
        self.notes.extend(notes);
        (answered, self.notes)
    }

    fn with_stub<T>(
        &mut self,
        kernel: &mut Kernel,
        act: impl FnOnce(&mut Stub, &mut Under<'_>) -> T,
    ) -> Option<T> {
        let Self { policy, slot, rules, stub, .. } = self;
        let mut set = |address, rules: Option<&_>| kernel.set_address(*slot, address, rules);
        let now_ns = clock::boot_ns();
        let mut under = Under { policy: *policy, rules, set: &mut set, now_ns };
        Some(act(stub.as_mut()?, &mut under))
    }

    fn down(&mut self, kernel: &mut Kernel, error: &io::Error) {
        kernel.answer_dns(self.instance, 0);
        self.notes.push(format!(
            "DNS of the server cannot be answered ({error}): it is refused, and no host is found by \
             its name"
        ));
    }
}
