//! Struct layouts of the running kernel from its BTF
//! (Documentation/bpf/btf.rst, "BTF Type and String Encoding").

use std::{collections::HashMap, fs, path::Path};

use super::KernelError;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC: u32 = 12;
/// Kinds that only wrap another type: typedef, volatile, const, restrict, type tag.
const WRAPPERS: [u32; 5] = [8, 9, 10, 11, 18];
const TYPE_BYTES: usize = 12;

/// Parsed BTF, enough to find members and parameters by name.
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Position of each type, by id.
    types: Vec<usize>,
    structs: HashMap<Vec<u8>, u32>,
    functions: HashMap<Vec<u8>, u32>,
    typedefs: HashMap<Vec<u8>, u32>,
}

impl Btf {
    /// Reads `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    ///
    /// When the kernel was built without BTF (CONFIG_DEBUG_INFO_BTF) or it cannot be parsed.
    pub fn of_kernel() -> Result<Self, KernelError> {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        let data = fs::read(path).map_err(KernelError::Btf)?;
        Self::parse(data).ok_or(KernelError::BtfMalformed)
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let header_bytes = word(&data, 4)? as usize;
        let types_at = header_bytes + word(&data, 8)? as usize;
        let types_end = types_at + word(&data, 12)? as usize;
        let strings = header_bytes + word(&data, 16)? as usize;
        let mut btf = Self {
            data,
            strings,
            types: vec![0],
            structs: HashMap::new(),
            functions: HashMap::new(),
            typedefs: HashMap::new(),
        };
        let mut at = types_at;
        while at < types_end {
            let info = word(&btf.data, at + 4)?;
            let id = btf.types.len() as u32;
            btf.types.push(at);
            let name = btf.name(word(&btf.data, at)?)?;
            match kind(info) {
                KIND_STRUCT if !name.is_empty() => {
                    let name = name.to_vec();
                    btf.structs.entry(name).or_insert(id);
                }
                KIND_FUNC => {
                    let name = name.to_vec();
                    btf.functions.entry(name).or_insert(id);
                }
                KIND_TYPEDEF => {
                    let name = name.to_vec();
                    btf.typedefs.entry(name).or_insert(id);
                }
                _ => {}
            }
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

    /// Position of a function's parameter.
    pub fn parameter(&self, function: &str, parameter: &str) -> Option<u32> {
        let func = self.types[*self.functions.get(function.as_bytes())? as usize];
        let proto = *self.types.get(word(&self.data, func + 8)? as usize)?;
        let count = self.parameters_of(proto)?;
        (0..count).find(|i| {
            let at = proto + TYPE_BYTES + *i as usize * 8;
            let name = word(&self.data, at).and_then(|offset| self.name(offset));
            name == Some(parameter.as_bytes())
        })
    }

    /// Number of arguments that programs on a tracepoint get.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<u32> {
        let typedef = *self.typedefs.get(format!("btf_trace_{name}").as_bytes())?;
        let pointer = self.types[self.unwrapped(typedef)? as usize];
        let proto = *self.types.get(word(&self.data, pointer + 8)? as usize)?;
        // The first parameter is the tracepoint's own data.
        self.parameters_of(proto)?.checked_sub(1)
    }

    fn parameters_of(&self, proto: usize) -> Option<u32> {
        Some(word(&self.data, proto + 4)? & 0xffff)
    }

    /// Whether a function of this name exists.
    pub fn has_function(&self, function: &str) -> bool {
        self.functions.contains_key(function.as_bytes())
    }

    fn member(&self, id: u32, wanted: &[u8]) -> Option<(u32, u32)> {
        let at = *self.types.get(self.unwrapped(id)? as usize)?;
        let info = word(&self.data, at + 4)?;
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        for i in 0..(info & 0xffff) as usize {
            let member = at + TYPE_BYTES + i * 12;
            let name = self.name(word(&self.data, member)?)?;
            let of_type = word(&self.data, member + 4)?;
            let bits = word(&self.data, member + 8)?;
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
            let at = *self.types.get(id as usize)?;
            if !WRAPPERS.contains(&kind(word(&self.data, at + 4)?)) {
                return Some(id);
            }
            id = word(&self.data, at + 8)?;
        }
    }

    fn name(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.data.get(self.strings + offset as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }
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
        let btf = Btf::of_kernel().expect("this kernel has BTF");
        assert_eq!(btf.offset("path", "mnt"), Some(0));
        assert_eq!(btf.offset("path", "dentry"), Some(8));
        assert!(btf.offset("sock", "__sk_common.skc_family").is_some());
        assert_eq!(btf.offset("path", "no_such_member"), None);
        assert_eq!(btf.parameter("bpf_lsm_path_rename", "new_dentry"), Some(3));
        assert!(!btf.has_function("no_such_function"));
    }

    #[test]
    fn refuses_what_is_not_btf() {
        assert!(Btf::parse(vec![1, 2, 3]).is_none());
        assert!(Btf::parse(vec![0xff; 4096]).is_none());
    }
}
