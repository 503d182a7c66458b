//! Struct layouts of the running kernel from its BTF
//! (Documentation/bpf/btf.rst, "BTF Type and String Encoding").

use std::{collections::HashMap, fs};

use super::KernelError;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
/// Kinds that only wrap another type: typedef, volatile, const, restrict, type tag.
const WRAPPERS: [u32; 5] = [8, 9, 10, 11, 18];
const TYPE_BYTES: usize = 12;

/// What the functions are called that BPF LSM programs attach to.
const HOOK: &[u8] = b"bpf_lsm_";
/// What the typedefs are called that tell a tracepoint's arguments.
const TRACEPOINT: &[u8] = b"btf_trace_";

/// The kernel's BTF as it stands in `/sys/kernel/btf/vmlinux`.
///
/// # Errors
///
/// When the kernel was built without BTF (CONFIG_DEBUG_INFO_BTF).
pub fn read() -> Result<Vec<u8>, KernelError> {
    fs::read("/sys/kernel/btf/vmlinux").map_err(KernelError::Btf)
}

/// Parsed BTF, enough to find members of structs, and parameters of LSM hooks and tracepoints.
pub struct Btf<'a> {
    data: &'a [u8],
    strings: usize,
    /// Position of each type, by id.
    types: Vec<u32>,
    structs: HashMap<&'a [u8], u32>,
    hooks: HashMap<&'a [u8], u32>,
    tracepoints: HashMap<&'a [u8], u32>,
}

impl<'a> Btf<'a> {
    /// Parses what [`read`] returns; `None` where it is not in a form that we know.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let header_bytes = word(data, 4)? as usize;
        let types_at = header_bytes + word(data, 8)? as usize;
        let types_end = types_at + word(data, 12)? as usize;
        let strings = header_bytes + word(data, 16)? as usize;
        let mut btf = Self {
            data,
            strings,
            types: vec![0],
            structs: HashMap::new(),
            hooks: HashMap::new(),
            tracepoints: HashMap::new(),
        };
        let mut at = types_at;
        while at < types_end {
            let info = word(data, at + 4)?;
            let name = btf.strings_from(word(data, at)?)?;
            let named = match kind(info) {
                KIND_STRUCT if name.first() != Some(&0) => Some(&mut btf.structs),
                KIND_FUNC if name.starts_with(HOOK) => Some(&mut btf.hooks),
                KIND_TYPEDEF if name.starts_with(TRACEPOINT) => Some(&mut btf.tracepoints),
                _ => None,
            };
            if let Some(named) = named {
                named.entry(first_string(name)).or_insert(btf.types.len() as u32);
            }
            btf.types.push(at as u32);
            at += TYPE_BYTES + extra_bytes(info);
        }
        Some(btf)
    }

    /// Byte offset of a member, such as `("sock", "__sk_common.skc_family")`; members of anonymous
    /// structs and unions count as the outer one's.
    pub fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let mut id = *self.structs.get(structure.as_bytes())?;
        let mut offset = 0;
        for name in member.split('.') {
            let (at, of_type) = self.member(id, name.as_bytes())?;
            offset += at;
            id = of_type;
        }
        Some(offset)
    }

    /// Position of a parameter of an LSM hook's function.
    pub fn parameter(&self, function: &str, parameter: &str) -> Option<u32> {
        let func = self.at(*self.hooks.get(function.as_bytes())?)?;
        let proto = self.at(word(self.data, func + 8)?)?;
        let count = self.parameters_of(proto)?;
        (0..count).find(|i| {
            let at = proto + TYPE_BYTES + *i as usize * 8;
            let name = word(self.data, at).and_then(|offset| self.name(offset));
            name == Some(parameter.as_bytes())
        })
    }

    /// Number of arguments that programs on a tracepoint get.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<u32> {
        let typedef = *self.tracepoints.get(format!("btf_trace_{name}").as_bytes())?;
        let pointer = self.at(self.unwrapped(typedef)?)?;
        let proto = self.at(word(self.data, pointer + 8)?)?;
        // The first parameter is the tracepoint's own data.
        self.parameters_of(proto)?.checked_sub(1)
    }

    fn parameters_of(&self, proto: usize) -> Option<u32> {
        Some(word(self.data, proto + 4)? & 0xffff)
    }

    /// Whether an LSM hook has a function of this name.
    pub fn has_function(&self, function: &str) -> bool {
        self.hooks.contains_key(function.as_bytes())
    }

    fn member(&self, id: u32, wanted: &[u8]) -> Option<(u32, u32)> {
        let at = self.at(self.unwrapped(id)?)?;
        let info = word(self.data, at + 4)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for i in 0..(info & 0xffff) as usize {
            let member = at + TYPE_BYTES + i * 12;
            let name = self.name(word(self.data, member)?)?;
            let of_type = word(self.data, member + 4)?;
            let bits = word(self.data, member + 8)?;
            let bits = if info >> 31 == 1 { bits & 0xff_ffff } else { bits };
            if name == wanted {
                return Some((bits / 8, of_type));
            }
            if name.is_empty()
                && let Some((inner, of_type)) = self.member(of_type, wanted)
            {
                return Some((bits / 8 + inner, of_type));
            }
        }
        None
    }

    fn unwrapped(&self, mut id: u32) -> Option<u32> {
        loop {
            let at = self.at(id)?;
            if !WRAPPERS.contains(&kind(word(self.data, at + 4)?)) {
                return Some(id);
            }
            id = word(self.data, at + 8)?;
        }
    }

    /// Position of a type.
    fn at(&self, id: u32) -> Option<usize> {
        self.types.get(id as usize).map(|at| *at as usize)
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings_from(offset).map(first_string)
    }

    /// The strings from this one on.
    fn strings_from(&self, offset: u32) -> Option<&'a [u8]> {
        self.data.get(self.strings + offset as usize..)
    }
}

fn first_string(strings: &[u8]) -> &[u8] {
    strings.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

fn kind(info: u32) -> u32 {
    (info >> 24) & 0x1f
}

/// Bytes that follow a type, by kind.
fn extra_bytes(info: u32) -> usize {
    let count = (info & 0xffff) as usize;
    match kind(info) {
        1 | 14 | 17 => 4,
        3 => 12,
        4 | 5 | 15 | 19 => count * 12,
        6 | 13 => count * 8,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_nested_members_and_parameters_of_the_running_kernel() {
        let data = read().expect("this kernel has BTF");
        let btf = Btf::parse(&data).expect("its form is known");
        assert_eq!(btf.offset("path", "mnt"), Some(0));
        assert_eq!(btf.offset("path", "dentry"), Some(8));
        assert!(btf.offset("sock", "__sk_common.skc_family").is_some());
        assert_eq!(btf.offset("path", "no_such_member"), None);
        assert_eq!(btf.parameter("bpf_lsm_path_rename", "new_dentry"), Some(3));
        assert!(!btf.has_function("no_such_function"));
    }

    #[test]
    fn refuses_what_is_not_btf() {
        assert!(Btf::parse(&[1, 2, 3]).is_none());
        assert!(Btf::parse(&[0xff; 4096]).is_none());
    }
}
