//! The only user of aya: loads and attaches the kernel programs, fills their maps, reads their
//! rings. Dropping [`Kernel`] detaches everything.

mod btf;
mod cgroup;
mod diagnostics;
mod error;
mod hooks;
mod isolation;
mod let_go;
mod matching;
pub mod pins;
mod policies;
mod proof;
mod ring;
mod shared;
mod statistics;
mod syscalls;
mod tags;

use std::{
    collections::HashSet,
    fmt,
    fs::OpenOptions,
    io,
    ops::Index,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use aya::{
    Ebpf, EbpfLoader, Endianness,
    maps::{Array, MapData, PerCpuArray, RingBuf},
    programs::{RawTracePointRunOptions, TestRun},
};
use monitor_common::{
    limits::{self, SCRATCH_SLOTS},
    network::AddressRules,
    offsets::{ABSENT, Offsets},
    policy::{Label, Policy, tag_flags},
    record::counter,
};

pub use cgroup::cgroup_root;
pub use error::KernelError;
pub use matching::{Held, held_at};
pub use policies::{FIRST_RESERVED, Slot};
pub use ring::{Ring, Rings};
pub use statistics::Statistics;
pub use tags::Tags;

use self::{diagnostics::Diagnostics, pins::Pins};
use crate::rules::Compiled;

/// The kernel programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mcp-monitor.bpf.o"));

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// BPF LSM: judged before it happens, refused with EPERM. Needs `bpf` in the kernel's list.
    Lsm,
    /// Tracepoints and cgroup hooks: network refused, files and exec judged after the call, and
    /// the tree killed.
    Tracepoint,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lsm => "lsm",
            Self::Tracepoint => "tracepoint",
        })
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lsm" => Ok(Self::Lsm),
            "tracepoint" => Ok(Self::Tracepoint),
            other => Err(format!("{other}: no such backend: lsm or tracepoint")),
        }
    }
}

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The backend, or `None` for the best that works.
    pub backend: Option<Backend>,
    /// Whether the kernel programs log to standard error what goes wrong in them.
    pub diagnostics: bool,
    /// Where programs and maps are pinned, so that they outlive this process. What is pinned there
    /// already is taken over.
    pub pins: Option<PathBuf>,
}

/// The kernel programs at work.
pub struct Kernel {
    ebpf: Ebpf,
    backend: Backend,
    hooks: Vec<String>,
    policies: policies::Policies,
    counters: PerCpuArray<MapData, u64>,
    rings: Option<Rings>,
    tags: Option<Tags>,
    held: matching::Waiting,
    tags_in_use: Array<MapData, u64>,
    diagnostics: Option<Diagnostics>,
    /// Counters after the proof, which are not the user's.
    baseline: Counters,
    /// Directories above labelled paths that are done, with their bits.
    above: HashSet<(PathBuf, u32)>,
    /// Why the better backend was passed over.
    passed_over: Option<String>,
    pins: Option<Pins>,
    /// Whether the maps were there before us.
    taken_over: bool,
}

/// The kernel's counters, see [`counter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([u64; counter::COUNT as usize]);

impl Index<u32> for Counters {
    type Output = u64;

    fn index(&self, counter: u32) -> &u64 {
        &self.0[counter as usize]
    }
}

impl Kernel {
    /// Loads, attaches and proves a backend, or takes over what is pinned.
    ///
    /// # Errors
    /// When the kernel refuses; nothing of ours stays attached.
    pub fn load(options: &Options) -> Result<Self, KernelError> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Err(KernelError::Privileges);
        }
        let mut loader = EbpfLoader::new();
        // aya has nothing to relocate in our programs, and would keep the kernel's types for it.
        loader.btf(None);
        let data = btf::read()?;
        let layouts = btf::Btf::parse(&data).ok_or(KernelError::BtfMalformed)?;
        let offsets = offsets(&layouts)?;
        loader.override_global("OFFSETS", &offsets, true);
        let pins = options.pins.as_deref().map(Pins::open).transpose()?;
        let mut kernel = Self::of_object(loader, options, pins)?;
        let started = kernel.start_best(options, &data, &layouts);
        if let (Err(_), Some(pins), false) = (&started, &kernel.pins, kernel.taken_over) {
            // Fails only for what the next start removes.
            let _ = pins.remove_all();
        }
        started.map(|()| kernel)
    }

    /// Starts the backend that is wanted, or the best that works.
    fn start_best(
        &mut self,
        options: &Options,
        data: &[u8],
        layouts: &btf::Btf<'_>,
    ) -> Result<(), KernelError> {
        let types = aya::Btf::parse(data, Endianness::default())
            .map_err(|error| KernelError::Types(error.to_string()))?;
        match options.backend {
            Some(backend) => self.start(backend, layouts, &types)?,
            None if self.is_at_work(Backend::Lsm) => self.start(Backend::Lsm, layouts, &types)?,
            None if self.is_at_work(Backend::Tracepoint) => {
                self.start(Backend::Tracepoint, layouts, &types)?;
            }
            None => {
                if let Err(error) = self.start(Backend::Lsm, layouts, &types) {
                    hooks::unload(&mut self.ebpf);
                    self.start(Backend::Tracepoint, layouts, &types)?;
                    self.passed_over = Some(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// The object's maps, with no program at work yet.
    fn of_object(
        loader: EbpfLoader<'_>,
        options: &Options,
        pins: Option<Pins>,
    ) -> Result<Self, KernelError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::Cgroup(error))? as u32;
        let level = if options.diagnostics { diagnostics::ALL } else { diagnostics::OFF };
        let slots = SCRATCH_SLOTS.max(2 * cpus);
        // It borrows these two, and so must not outlive them.
        let mut loader = loader;
        let taken_over = pins.as_ref().is_some_and(Pins::has_links);
        if let Some(maps) = pins.as_ref().map(Pins::maps) {
            for name in pins::MAPS {
                loader.map_pin_path(name, maps.join(name));
            }
        }
        let mut ebpf = loader
            .override_global(aya_log::LEVEL, &level, true)
            .override_global("SLOTS", &slots, true)
            .map_max_entries("SCRATCH", slots)
            .load(OBJECT)
            .map_err(Box::new)?;
        let counters = policies::take(&mut ebpf, "COUNTERS")?.try_into();
        let tags = policies::take(&mut ebpf, "TAGS")?.try_into().map_err(KernelError::Map)?;
        syscalls::fill(&mut ebpf)?;
        Ok(Self {
            backend: Backend::Tracepoint,
            policies: policies::Policies::new(&mut ebpf)?,
            counters: counters.map_err(KernelError::Map)?,
            rings: Some(Rings {
                events: ring(&mut ebpf, "EVENTS")?,
                violations: ring(&mut ebpf, "VIOLATIONS")?,
            }),
            diagnostics: options.diagnostics.then(|| Diagnostics::of(&mut ebpf)).transpose()?,
            tags: Some(Tags(tags)),
            held: matching::Waiting::new(&mut ebpf)?,
            tags_in_use: policies::take(&mut ebpf, "TAG_COUNT")?
                .try_into()
                .map_err(KernelError::Map)?,
            baseline: Counters::default(),
            hooks: Vec::new(),
            above: HashSet::new(),
            passed_over: None,
            pins,
            taken_over,
            ebpf,
        })
    }

    /// Whether our own programs of a backend are attached already.
    fn is_at_work(&self, backend: Backend) -> bool {
        self.pins.as_ref().is_some_and(|pins| pins.are_attached(backend))
    }

    /// Loads, attaches and proves the programs of a backend.
    fn start(
        &mut self,
        backend: Backend,
        layouts: &btf::Btf<'_>,
        types: &aya::Btf,
    ) -> Result<(), KernelError> {
        if backend == Backend::Lsm {
            hooks::check_lsm_list()?;
        }
        self.backend = backend;
        self.hooks = hooks::names(backend, layouts);
        hooks::load_controls(&mut self.ebpf)?;
        match self.pins.clone() {
            None => hooks::attach(&mut self.ebpf, backend, layouts, types, None)?,
            Some(_) if self.is_at_work(backend) => return Ok(()),
            Some(pins) => {
                let links = pins.new_links()?;
                let attached = hooks::attach(&mut self.ebpf, backend, layouts, types, Some(&links));
                attached.inspect_err(|_| pins.discard())?;
                pins.attached(backend)?;
            }
        }
        if self.taken_over {
            // What is in the rings and counters is of servers that run.
            return Ok(());
        }
        proof::run(self)?;
        self.forget_proof()
    }

    fn forget_proof(&mut self) -> Result<(), KernelError> {
        if let Some(rings) = &mut self.rings {
            while rings.violations.next().is_some() {}
            while rings.events.next().is_some() {}
        }
        self.baseline = self.raw_counters()?;
        Ok(())
    }

    /// The backend at work.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Attached hooks, for headers.
    pub fn hooks(&self) -> &[String] {
        &self.hooks
    }

    /// Whether programs of ours, or of an earlier version, were at work before.
    pub fn was_taken_over(&self) -> bool {
        self.taken_over
    }

    /// Why the lsm backend was passed over, when the choice was ours.
    pub fn passed_over(&self) -> Option<&str> {
        self.passed_over.as_deref()
    }

    /// Puts a policy into the maps, not yet in force.
    ///
    /// # Errors
    /// When a map is full; nothing stays behind.
    pub fn install(&mut self, id: u32, compiled: &Compiled) -> Result<Slot, KernelError> {
        self.policies.install(id, &policies::Parts::of(compiled))
    }

    /// The same for a policy that lapses: at `until_ns` (CLOCK_BOOTTIME) the kernel programs go on
    /// under the one in `after`, whether or not anybody watches by then.
    ///
    /// # Errors
    /// As [`Kernel::install`].
    pub fn install_until(
        &mut self,
        id: u32,
        compiled: &Compiled,
        until_ns: u64,
        after: Slot,
    ) -> Result<Slot, KernelError> {
        let after = after.number() as u32;
        let policy = Policy { until_ns, after, ..compiled.policy };
        self.policies
            .install(id, &policies::Parts { policy: &policy, ..policies::Parts::of(compiled) })
    }

    /// Goes on with a policy that an earlier process has installed and bound: `position` is where
    /// its instance stands. `None` when what the kernel holds there is not what `compiled` says.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn adopt(
        &mut self,
        instance: u32,
        position: u32,
        compiled: &Compiled,
    ) -> Result<Option<Slot>, KernelError> {
        self.policies.adopt(instance, position, &policies::Parts::of(compiled))
    }

    /// The same for the policy that is in force when an adopted one lapses.
    ///
    /// # Errors
    /// As [`Kernel::adopt`].
    pub fn adopt_after(
        &mut self,
        slot: Slot,
        compiled: &Compiled,
    ) -> Result<Option<Slot>, KernelError> {
        self.policies.adopt_after(slot, &policies::Parts::of(compiled))
    }

    /// Forgets what earlier processes have left in the maps and nobody has adopted.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn sweep(&mut self) -> Result<(), KernelError> {
        self.policies.sweep()
    }

    /// Where an instance stands in the kernel's table, for [`Kernel::adopt`].
    pub fn position(&self, instance: u32) -> Option<u32> {
        self.policies.position(instance)
    }

    /// Puts an installed policy in force for an instance, by one store; also replaces.
    ///
    /// # Errors
    /// When too many instances run.
    pub fn bind(&mut self, instance: u32, slot: Slot) -> Result<(), KernelError> {
        self.policies.bind(instance, slot).map(drop)
    }

    /// Attaches what sends DNS of instances whose rules name hosts to the agent.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_dns(&mut self) -> Result<(), KernelError> {
        let pinned = self.pins.as_ref().map(|pins| pins.links(self.backend));
        for hook in hooks::attach_dns(&mut self.ebpf, pinned.as_deref())? {
            if !self.hooks.contains(&hook) {
                self.hooks.push(hook);
            }
        }
        Ok(())
    }

    /// Says at which port of loopback the DNS of a bound instance is answered. 0: nowhere, so that
    /// it is refused.
    pub fn answer_dns(&mut self, instance: u32, port: u16) {
        self.policies.set_resolver(instance, port);
    }

    /// Replaces the rules of one address (in its canonical form) of an installed policy, by one
    /// store; `None` leaves it to the prefix around it.
    ///
    /// # Errors
    /// When the address table is full.
    pub fn set_address(
        &mut self,
        slot: Slot,
        address: [u8; 16],
        rules: Option<&AddressRules>,
    ) -> Result<(), KernelError> {
        self.policies.set_address(slot, address, rules)
    }

    /// Frees a policy that no instance is bound to, after a grace period.
    ///
    /// # Errors
    /// When the kernel refuses a map update.
    pub fn retire(&mut self, slot: Slot) -> Result<(), KernelError> {
        self.policies.retire(slot)
    }

    /// Tags a waiting child; what it executes first was asked for by the person.
    ///
    /// # Errors
    /// When the instance is not bound or the tag table is full.
    pub fn tag(&mut self, tgid: u32, instance: u32) -> Result<(), KernelError> {
        self.tag_as(tgid, instance, tag_flags::LAUNCH)
    }

    fn tag_as(&mut self, tgid: u32, instance: u32, flags: u32) -> Result<(), KernelError> {
        let position = self.policies.position(instance).ok_or(KernelError::Unbound(instance))?;
        let arguments = [tgid, instance, position, flags].map(u64::from);
        match self.control("control_tag", &arguments)? {
            0 => Ok(()),
            _ => Err(KernelError::Tag(tgid)),
        }
    }

    /// Forgets an instance that has no process left.
    ///
    /// # Errors
    /// None today; the kernel may come to refuse.
    pub fn release(&mut self, instance: u32) -> Result<(), KernelError> {
        self.policies.release(instance);
        Ok(())
    }

    /// Labels the inode at `path`, and marks the directories above it. The kernel writes the key,
    /// so that it is the one the hooks see.
    ///
    /// # Errors
    /// When the path cannot be opened or the label table is full.
    pub fn label(&mut self, path: &Path, label: Label) -> Result<(), KernelError> {
        self.label_one(path, label)?;
        let above = label.own | label.beneath;
        for directory in path.ancestors().skip(1) {
            if self.above.insert((directory.to_owned(), above)) {
                self.label_one(directory, Label { above, ..Label::default() })?;
            }
        }
        Ok(())
    }

    /// Labels what the sets name. A file that is gone by now needs no label.
    ///
    /// # Errors
    /// As [`Kernel::label`].
    pub fn label_all(&mut self, labels: &[(PathBuf, Label)]) -> Result<(), KernelError> {
        for (path, label) in labels {
            match self.label(path, *label) {
                Err(KernelError::Label { source, .. }) if is_gone(&source) => {}
                labelled => labelled?,
            }
        }
        Ok(())
    }

    fn label_one(&mut self, path: &Path, label: Label) -> Result<(), KernelError> {
        let failed = |source| KernelError::Label { path: path.display().to_string(), source };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(path)
            .map_err(failed)?;
        let bits = [label.own, label.beneath, label.above].map(u64::from);
        let arguments = [file.as_raw_fd() as u64, bits[0], bits[1], bits[2]];
        match self.control("control_label", &arguments)? {
            0 => Ok(()),
            _ => Err(failed(io::Error::other("the label table is full"))),
        }
    }

    /// The classes that the kernel finds for a path under an installed policy, by the function that
    /// the hooks call: what tests hold against [`Compiled::classify_path`].
    ///
    /// # Errors
    /// When the path is too long for the kernel side, or the policy is gone.
    pub fn classify_path(&mut self, slot: Slot, path: &[u8]) -> Result<u32, KernelError> {
        let arguments = [slot.number(), path.as_ptr() as u64, path.len() as u64];
        match self.control("control_classify", &arguments)? {
            u32::MAX => Err(KernelError::Classify(path.len())),
            classes => Ok(classes),
        }
    }

    /// Whether the kernel finds that an installed policy names these arguments (with argv\[0\], each
    /// ended by NUL) for a program, by the function that the hooks call.
    ///
    /// # Errors
    /// When either is too long for the kernel side, or the policy is gone.
    pub fn names_arguments(
        &mut self,
        slot: Slot,
        program: &[u8],
        vector: &[u8],
    ) -> Result<bool, KernelError> {
        let place = |bytes: &[u8]| [bytes.as_ptr() as u64, bytes.len() as u64];
        let [program_at, program_len] = place(program);
        let [vector_at, vector_len] = place(vector);
        let arguments = [slot.number(), program_at, program_len, vector_at, vector_len];
        match self.control("control_vector", &arguments)? {
            u32::MAX => Err(KernelError::Classify(program.len().max(vector.len()))),
            named => Ok(named != 0),
        }
    }

    fn control(&mut self, name: &'static str, arguments: &[u64]) -> Result<u32, KernelError> {
        let mut options = RawTracePointRunOptions::new();
        options.args[..arguments.len()].copy_from_slice(arguments);
        let program = hooks::control(&mut self.ebpf, name)?;
        let result = program.test_run(options);
        Ok(result.map_err(|error| KernelError::program(name, error))?.return_value)
    }

    /// What the kernel programs have counted since they were loaded.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters, KernelError> {
        let mut counters = self.raw_counters()?;
        for (value, base) in counters.0.iter_mut().zip(self.baseline.0) {
            *value -= base;
        }
        Ok(counters)
    }

    /// Records of the ring of events, and of the ring of violations, that were produced and read
    /// before [`Kernel::counters`] began to count: those of the proof.
    pub fn read_before(&self) -> (u64, u64) {
        let read = |produced, lost| self.baseline[produced] - self.baseline[lost];
        (
            read(counter::EVENTS_PRODUCED, counter::EVENTS_LOST),
            read(counter::VIOLATIONS_PRODUCED, counter::VIOLATIONS_LOST),
        )
    }

    fn raw_counters(&self) -> Result<Counters, KernelError> {
        let mut counters = Counters::default();
        for (index, value) in counters.0.iter_mut().enumerate() {
            let by_cpu = self.counters.get(&(index as u32), 0).map_err(KernelError::Map)?;
            *value = by_cpu.iter().sum();
        }
        Ok(counters)
    }

    /// The table of tagged processes, for whoever ends trees.
    ///
    /// # Errors
    /// When it has been taken already.
    pub fn take_tags(&mut self) -> Result<Tags, KernelError> {
        self.tags.take().ok_or(KernelError::MissingMap("TAGS"))
    }

    /// Pinned programs by name, for [`Statistics::of`].
    pub fn programs(&self) -> Vec<(String, OwnedFd)> {
        self.pins.as_ref().map_or_else(Vec::new, |pins| pins.programs(self.backend))
    }

    /// Tables of the kernel: name, entries in use, room.
    pub fn usage(&self) -> Vec<(&'static str, u64, u64)> {
        let tags = self.tags_in_use.get(&0, 0).unwrap_or(0);
        let mut usage = self.policies.usage().to_vec();
        usage.push(("tags", tags, u64::from(limits::TAGS_MAX)));
        usage
    }

    /// Writes to standard error what the kernel programs have logged.
    pub fn flush_diagnostics(&mut self) {
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
    }

    /// The rings, for the one consumer.
    ///
    /// # Errors
    /// When they have been taken already.
    pub fn take_rings(&mut self) -> Result<Rings, KernelError> {
        self.rings.take().ok_or(KernelError::MissingMap("EVENTS"))
    }
}

/// What compiling rules and loading kernel programs took and freed goes back to the kernel: the C
/// library would keep most of it for as long as we run, and so would the processes we fork.
pub fn give_memory_back() {
    // SAFETY: malloc_trim has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<Ring, KernelError> {
    let map = policies::take(ebpf, name)?;
    Ok(Ring(RingBuf::try_from(map).map_err(KernelError::Map)?))
}

/// Fields that newer kernels no longer have and that the programs can do without.
const OPTIONAL: &[(&str, &str)] =
    &[("mount", "mnt_instance"), ("kernfs_node", "parent"), ("kernfs_node", "__parent")];

fn offsets(layouts: &btf::Btf<'_>) -> Result<Offsets, KernelError> {
    let mut missing = None;
    let offsets = Offsets::look_up(|structure, member| {
        layouts.offset(structure, member).unwrap_or_else(|| {
            if !OPTIONAL.contains(&(structure, member)) {
                missing = Some(format!("{structure}.{member}"));
            }
            ABSENT
        })
    });
    if offsets.node_parent == ABSENT && offsets.node_rcu_parent == ABSENT {
        missing = Some("kernfs_node.parent".to_owned());
    }
    missing.map_or(Ok(offsets), |field| Err(KernelError::MissingField(field)))
}
