//! How instances begin, go on under other rules, and end: what the watcher does to the kernel, the
//! pipeline and the state for it.

use std::{sync::Arc, time::Instant};

use nix::unistd::Pid;

use super::{
    instances::{self, Instance, Standby},
    request::{Caller, Launch, Launched, Refusal, Reloaded, Started},
    watch::Watch,
};
use crate::{
    enrich::clock,
    event::PolicyText,
    kernel::{self, Kernel, KernelError, Slot},
    launch::Tree,
    names::Service,
    rules::{self, Compiled, Loaded},
};

/// How long the kernel waits for an agent to take away what is over, before it does so itself and
/// takes everything away that was granted to the instance.
const PATIENCE_NS: u64 = 3_000_000_000;

/// A policy in the kernel that is not yet in force.
struct Prepared {
    policy: PolicyText,
    slot: Slot,
    standby: Option<Standby>,
    names: Option<Service>,
}

/// An instance that is to begin.
pub(super) struct Beginning {
    /// Its number.
    pub number: u32,
    /// Its tree, with nothing under watch yet.
    pub tree: Tree,
    /// How it was launched.
    pub launch: Launch,
    /// Its rules.
    pub loaded: Loaded,
    /// Whose it is.
    pub uid: u32,
}

impl Watch {
    /// Puts a waiting child under watch.
    ///
    /// # Errors
    /// Says what is wrong with the rules or with what was asked, or what the kernel refused. Nothing
    /// of it is left then.
    pub(super) fn launch(&mut self, caller: Caller, launch: Launch) -> Result<Launched, Refusal> {
        self.quarantine.check(launch.server.as_deref())?;
        instances::check_child(caller, launch.pid)?;
        let uid = caller.uid;
        let search = self.search_of(launch.server.as_deref(), None);
        let loaded = instances::load(&search, caller, uid, &launch, None)?;
        let (number, cgroup) = instances::place(|| self.fresh_number())?;
        cgroup.limit(&loaded.resources).map_err(|error| Refusal::Failed(error.to_string()))?;
        let tree = instances::tree(cgroup, number, self.tags.clone());
        let child = launch.pid;
        let begun = Beginning { number, tree, launch, loaded, uid };
        self.begin(begun, |kernel, _| kernel.tag(child, number))
    }

    /// A number that no instance has.
    pub(super) fn fresh_number(&self) -> u32 {
        instances::fresh_number(|number| self.instances.contains_key(&number))
    }

    /// Puts the rules of an instance in force, then its first process under them with `tag`.
    ///
    /// # Errors
    /// As [`Watch::launch`].
    pub(super) fn begin(
        &mut self,
        begun: Beginning,
        tag: impl FnOnce(&mut Kernel, &Compiled) -> Result<(), KernelError>,
    ) -> Result<Launched, Refusal> {
        let Beginning { number, tree, launch, loaded, uid } = begun;
        let compiled = instances::compile(&mut self.tables, &loaded)?;
        let prepared = self.prepare(number, &loaded, &compiled)?;
        let put = self.enforce(number, &prepared).map_err(anyhow::Error::from).and_then(|()| {
            tree.add(Pid::from_raw(launch.pid as i32))?;
            Ok(tag(&mut self.kernel, &compiled)?)
        });
        if let Err(error) = put {
            let _ = tree.kill();
            self.drop_from_kernel(number, prepared.slot, prepared.standby);
            return Err(Refusal::Failed(error.to_string()));
        }
        let Prepared { policy, slot, standby, names } = prepared;
        let started = Started {
            instance: number,
            server: policy.server.clone(),
            mode: policy.mode.clone(),
            backend: self.kernel.backend().to_string(),
            warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
        };
        let followers = &mut self.pipeline.sinks().audience;
        let told = followers.begin(number, &policy.server, uid);
        self.pipeline.begin(policy.clone(), compiled);
        let instance = Instance {
            policy,
            slot,
            standby,
            launch,
            uid,
            started_ns: clock::boot_ns(),
            tree,
            names,
            stale: None,
            isolated: false,
            is_alone: false,
            ending: None,
        };
        self.instances.insert(number, instance);
        self.name_policies();
        self.save(number);
        Ok(Launched { started, told })
    }

    /// Puts rules into the kernel, not yet in force.
    fn prepare(
        &mut self,
        number: u32,
        loaded: &Loaded,
        compiled: &Arc<Compiled>,
    ) -> Result<Prepared, Refusal> {
        let standby = self.stand_by(number, loaded)?;
        let policy = self.veil.policy(loaded.text(self.next_policy, number));
        match self.put_into_kernel(&policy, compiled, standby.as_ref()) {
            Ok((slot, names)) => Ok(Prepared { policy, slot, standby, names }),
            Err(error) => {
                let dropped = self.drop_standby(standby);
                Err(Refusal::Failed(dropped.err().unwrap_or(error).to_string()))
            }
        }
    }

    fn put_into_kernel(
        &mut self,
        policy: &PolicyText,
        compiled: &Arc<Compiled>,
        standby: Option<&Standby>,
    ) -> Result<(Slot, Option<Service>), KernelError> {
        let slot = match standby {
            None => self.kernel.install(policy.policy, compiled)?,
            Some(Standby { until_ns, slot, .. }) => {
                self.kernel.install_until(policy.policy, compiled, until_ns + PATIENCE_NS, *slot)?
            }
        };
        self.next_policy += 1;
        let names = self
            .kernel
            .label_all(&compiled.labels)
            .and_then(|()| self.name_service(policy, slot, compiled));
        match names {
            Ok(names) => Ok((slot, names)),
            Err(error) => {
                self.kernel.retire(slot)?;
                Err(error)
            }
        }
    }

    /// Puts what an instance is under when its first grant is over, and no agent there to say so, into
    /// the kernel.
    fn stand_by(&mut self, number: u32, loaded: &Loaded) -> Result<Option<Standby>, Refusal> {
        let Some(until_ns) = self.grants.first_end(&loaded.server, number) else { return Ok(None) };
        let layers = self.layers_without_grants(number);
        // These lines have no paths whose links would have to be followed.
        let loaded = rules::load_granted(&loaded.text(0, number), &layers, &self.search, None);
        let loaded = loaded
            .map_err(|error| Refusal::Wrong(error.to_string()))?
            .ok_or_else(|| Refusal::Failed("its rules are not known in full".to_owned()))?;
        let compiled = instances::compile(&mut self.tables, &loaded)?;
        let policy = self.veil.policy(loaded.text(self.next_policy, number));
        let slot = self.kernel.install(policy.policy, &compiled);
        let slot = slot.map_err(|error| Refusal::Failed(error.to_string()))?;
        self.next_policy += 1;
        self.pipeline.begin(policy.clone(), compiled);
        Ok(Some(Standby { policy, slot, until_ns }))
    }

    /// Forgets what no policy in force lapses to any more.
    fn drop_standby(&mut self, standby: Option<Standby>) -> Result<(), KernelError> {
        let Some(Standby { policy, slot, .. }) = standby else { return Ok(()) };
        self.pipeline.retire(policy);
        self.kernel.retire(slot)
    }

    /// Brings a policy into force, in one step.
    fn enforce(&mut self, number: u32, prepared: &Prepared) -> Result<(), KernelError> {
        self.kernel.bind(number, prepared.slot)?;
        self.kernel.answer_dns(number, prepared.names.as_ref().map_or(0, Service::port));
        Ok(())
    }

    /// Goes on answering the DNS of adopted instances: at other ports, and with no address known.
    pub(super) fn serve_adopted_names(&mut self) {
        let adopted = self.instances.values().map(|one| (one.policy.clone(), one.slot));
        for (policy, slot) in adopted.collect::<Vec<_>>() {
            let number = policy.instance;
            let Some(compiled) = self.pipeline.policy(policy.policy) else { continue };
            let names = self.name_service(&policy, slot, &compiled).unwrap_or_else(|error| {
                // Nowhere: what redirected it before refuses it now.
                self.pipeline.agent(number, "names", &error.to_string());
                None
            });
            self.kernel.answer_dns(number, names.as_ref().map_or(0, Service::port));
            if let Some(instance) = self.instances.get_mut(&number) {
                instance.names = names;
            }
        }
    }

    /// The DNS of an instance whose rules name hosts.
    fn name_service(
        &mut self,
        policy: &PolicyText,
        slot: Slot,
        compiled: &Arc<Compiled>,
    ) -> Result<Option<Service>, KernelError> {
        if !compiled.answers_dns() {
            return Ok(None);
        }
        // Without it questions would go where the server sends them.
        self.kernel.attach_dns()?;
        let PolicyText { instance, policy, .. } = *policy;
        let service = Service::start(&mut self.kernel, instance, policy, slot, compiled.clone());
        if let Some(descriptor) = service.descriptor() {
            // What cannot be waited for is looked at several times a second all the same.
            let _ = self.waiter.add(descriptor);
        }
        Ok(Some(service))
    }

    /// Answers what was asked by name.
    pub(super) fn answer_names(&mut self) {
        let Self { kernel, pipeline, instances, .. } = self;
        for (number, instance) in instances {
            if let Some(names) = &mut instance.names {
                pipeline.names(*number, names.serve(kernel));
            }
        }
    }

    /// Forgets instances that have ended; `read` is when the rings were read last.
    pub(super) fn bury(&mut self, read: Instant) {
        let ended = |instance: &mut Instance| instance.has_ended(read);
        let numbers: Vec<u32> = self
            .instances
            .iter_mut()
            .filter_map(|(number, instance)| ended(instance).then_some(*number))
            .collect();
        if numbers.is_empty() {
            return;
        }
        for number in numbers {
            let Some(instance) = self.instances.remove(&number) else { continue };
            let message = format!("the last process of instance {number} has ended");
            self.pipeline.agent(number, "ended", &message);
            if let Some(names) = instance.names {
                self.pipeline.names(number, names.finish(&mut self.kernel));
            }
            self.drop_from_kernel(number, instance.slot, instance.standby);
            let followers = &mut self.pipeline.sinks().audience;
            let summary = followers.end(number, &instance.policy.server);
            self.pipeline.retire(instance.policy);
            self.pipeline.forget(number);
            for reply in instance.ending.into_iter().flat_map(|ending| ending.replies) {
                let _ = reply.send(Ok(summary.clone()));
            }
            self.state.forget(number);
            self.end_grants(number);
            if instance.isolated
                && let Err(error) = self.kernel.end_isolation(number)
            {
                self.pipeline.agent(number, "kernel", &error.to_string());
            }
        }
        self.name_policies();
        kernel::give_memory_back();
    }

    fn drop_from_kernel(&mut self, number: u32, slot: Slot, standby: Option<Standby>) {
        let released = self.kernel.release(number).and_then(|()| self.kernel.retire(slot));
        let dropped = released.and_then(|()| self.drop_standby(standby));
        if let Err(error) = dropped {
            self.pipeline.agent(number, "kernel", &error.to_string());
        }
    }

    /// Loads all rules again. What cannot be loaded changes nothing.
    pub(super) fn reload(&mut self) -> Vec<Reloaded> {
        let numbers: Vec<u32> = self.instances.keys().copied().collect();
        let mut results = Vec::new();
        for number in numbers {
            let error = self.reload_one(number).err().map(|refusal| refusal.to_string());
            let result = if error.is_none() { "ok" } else { "failed" };
            self.metrics.reloads.with_label_values(&[result]).inc();
            if let Some(error) = &error {
                let message = format!("the rules before stay in force: {error}");
                self.pipeline.agent(number, "reload", &message);
            }
            let Some(instance) = self.instances.get_mut(&number) else { continue };
            instance.stale = error.clone();
            let server = instance.policy.server.clone();
            results.push(Reloaded { instance: number, server, error });
            self.save(number);
        }
        self.name_policies();
        self.reload_matches();
        results
    }

    fn reload_one(&mut self, number: u32) -> Result<(), Refusal> {
        let Some(instance) = self.instances.get(&number) else { return Ok(()) };
        let caller = Caller { pid: instance.launch.pid, uid: instance.uid };
        let search = self.search_of(instance.launch.server.as_deref(), Some(number));
        let by_others = self.by_others(number);
        let loaded = instances::load(&search, caller, instance.uid, &instance.launch, by_others)?;
        let compiled = instances::compile(&mut self.tables, &loaded)?;
        if self.veil.policy(loaded.text(instance.policy.policy, number)) == instance.policy {
            return Ok(());
        }
        self.replace(number, &loaded, &compiled)
    }

    /// Replaces the policy of an instance, in one step.
    pub(super) fn replace(
        &mut self,
        number: u32,
        loaded: &Loaded,
        compiled: &Arc<Compiled>,
    ) -> Result<(), Refusal> {
        let prepared = self.prepare(number, loaded, compiled)?;
        let replaced = self.put_in_place(number, prepared, compiled);
        replaced.map_err(|error| Refusal::Failed(error.to_string()))
    }

    fn put_in_place(
        &mut self,
        number: u32,
        mut prepared: Prepared,
        compiled: &Arc<Compiled>,
    ) -> Result<(), KernelError> {
        let before = self.instances.get(&number).and_then(|instance| instance.names.as_ref());
        if let (Some(names), Some(before)) = (&mut prepared.names, before) {
            names.take_over(before, &mut self.kernel);
        }
        // Known before the first record under it comes.
        self.pipeline.begin(prepared.policy.clone(), compiled.clone());
        self.enforce(number, &prepared)?;
        let Some(instance) = self.instances.get_mut(&number) else { return Ok(()) };
        let before = std::mem::replace(&mut instance.slot, prepared.slot);
        let standby = std::mem::replace(&mut instance.standby, prepared.standby);
        let old = std::mem::replace(&mut instance.policy, prepared.policy);
        if let Some(names) = std::mem::replace(&mut instance.names, prepared.names) {
            self.pipeline.names(number, names.finish(&mut self.kernel));
        }
        self.kernel.retire(before)?;
        // Its last records are in the rings by now, and are read before it is forgotten.
        self.answering(|pipeline, mut respond| pipeline.settle(&mut respond));
        self.pipeline.retire(old);
        self.drop_standby(standby)
    }

    /// Leaves word for the next agent.
    pub(super) fn save(&mut self, number: u32) {
        let Some(instance) = self.instances.get(&number) else { return };
        let saved = instance.saved(self.kernel.position(number).unwrap_or(u32::MAX));
        if let Err(error) = self.state.write(&saved) {
            let message = format!(
                "the state of instance {number} cannot be saved: {error}: the next agent would not \
                 know it"
            );
            self.pipeline.agent(number, "state", &message);
        }
    }

    /// The policies that headers of later segments name.
    pub(super) fn name_policies(&mut self) {
        let policies = self.instances.values().flat_map(Instance::policies).cloned();
        self.pipeline.set_policies(policies.collect());
    }
}
