//! Where the kernel keeps the struct fields that the programs read. Rust programs have no field
//! relocation, so the loader looks each field up in the running kernel's BTF and hands the table
//! over as read-only data; the verifier then sees constants.

use crate::wire;

/// Offset of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($field:ident = $structure:literal . $member:literal),* $(,)?) => {
        /// Byte offsets, [`ABSENT`] for what the kernel does not have.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets {
            $(#[doc = concat!("`", $structure, ".", $member, "`")] pub $field: u32,)*
        }

        /// Fields of [`Offsets`] in order, as (struct, member path).
        pub const FIELDS: &[(&str, &str)] = &[$(($structure, $member)),*];

        impl Offsets {
            /// All zero, for the kernel side's initial value.
            pub const ZERO: Self = Self { $($field: 0),* };

            /// Builds the table by asking `find(struct, member path)` for each field.
            pub fn look_up(mut find: impl FnMut(&str, &str) -> u32) -> Self {
                Self { $($field: find($structure, $member)),* }
            }
        }
    };
}

offsets! {
    task_tgid = "task_struct"."tgid",
    task_pid = "task_struct"."pid",
    task_real_parent = "task_struct"."real_parent",
    task_group_leader = "task_struct"."group_leader",
    task_start = "task_struct"."start_boottime",
    task_signal = "task_struct"."signal",
    task_exit_code = "task_struct"."exit_code",
    task_files = "task_struct"."files",
    task_fs = "task_struct"."fs",
    task_mm = "task_struct"."mm",
    task_nsproxy = "task_struct"."nsproxy",
    task_cgroups = "task_struct"."cgroups",
    task_status = "task_struct"."thread_info.status",
    task_pid_links = "task_struct"."pid_links",
    task_flags = "task_struct"."flags",
    signal_live = "signal_struct"."live",
    fs_pwd = "fs_struct"."pwd",
    fs_root = "fs_struct"."root",
    nsproxy_mnt_ns = "nsproxy"."mnt_ns",
    mnt_ns_inum = "mnt_namespace"."ns.inum",
    files_fdt = "files_struct"."fdt",
    fdt_fd = "fdtable"."fd",
    fdt_max = "fdtable"."max_fds",
    file_path = "file"."f_path",
    file_inode = "file"."f_inode",
    file_flags = "file"."f_flags",
    file_mode = "file"."f_mode",
    file_private = "file"."private_data",
    path_mnt = "path"."mnt",
    path_dentry = "path"."dentry",
    dentry_parent = "dentry"."d_parent",
    dentry_name = "dentry"."d_name",
    dentry_inode = "dentry"."d_inode",
    dentry_sb = "dentry"."d_sb",
    dentry_alias = "dentry"."d_u.d_alias",
    qstr_len = "qstr"."len",
    qstr_name = "qstr"."name",
    vfsmount_root = "vfsmount"."mnt_root",
    vfsmount_sb = "vfsmount"."mnt_sb",
    mount_mnt = "mount"."mnt",
    mount_parent = "mount"."mnt_parent",
    mount_mountpoint = "mount"."mnt_mountpoint",
    mount_mnt_ns = "mount"."mnt_ns",
    mount_instance = "mount"."mnt_instance",
    inode_ino = "inode"."i_ino",
    inode_sb = "inode"."i_sb",
    inode_mode = "inode"."i_mode",
    inode_nlink = "inode"."i_nlink",
    inode_generation = "inode"."i_generation",
    inode_names = "inode"."i_dentry.first",
    sb_dev = "super_block"."s_dev",
    sb_magic = "super_block"."s_magic",
    sb_mounts = "super_block"."s_mounts",
    proc_inode_pid = "proc_inode"."pid",
    proc_inode_vfs = "proc_inode"."vfs_inode",
    pid_tasks = "pid"."tasks",
    mm_arg_start = "mm_struct"."arg_start",
    mm_arg_end = "mm_struct"."arg_end",
    mm_exe_file = "mm_struct"."exe_file",
    binprm_file = "linux_binprm"."file",
    binprm_interpreter = "linux_binprm"."interpreter",
    binprm_filename = "linux_binprm"."filename",
    binprm_interp = "linux_binprm"."interp",
    binprm_buf = "linux_binprm"."buf",
    iattr_valid = "iattr"."ia_valid",
    socket_sk = "socket"."sk",
    socket_type = "socket"."type",
    sock_family = "sock"."__sk_common.skc_family",
    sock_num = "sock"."__sk_common.skc_num",
    sock_address4 = "sock"."__sk_common.skc_rcv_saddr",
    sock_address6 = "sock"."__sk_common.skc_v6_rcv_saddr",
    sock_protocol = "sock"."sk_protocol",
    sock_type = "sock"."sk_type",
    unix_path = "unix_sock"."path",
    unix_addr = "unix_sock"."addr",
    unix_peer = "unix_sock"."peer",
    unix_address_len = "unix_address"."len",
    unix_address_name = "unix_address"."name",
    msghdr_name = "msghdr"."msg_name",
    msghdr_namelen = "msghdr"."msg_namelen",
    inode_private = "inode"."i_private",
    regs_orig_ax = "pt_regs"."orig_ax",
    regs_bx = "pt_regs"."bx",
    regs_cx = "pt_regs"."cx",
    regs_dx = "pt_regs"."dx",
    regs_si = "pt_regs"."si",
    regs_di = "pt_regs"."di",
    regs_bp = "pt_regs"."bp",
    regs_r8 = "pt_regs"."r8",
    regs_r9 = "pt_regs"."r9",
    regs_r10 = "pt_regs"."r10",
    io_kiocb_opcode = "io_kiocb"."opcode",
    css_set_cgroup = "css_set"."dfl_cgrp",
    cgroup_node = "cgroup"."kn",
    node_name = "kernfs_node"."name",
    node_parent = "kernfs_node"."parent",
    node_rcu_parent = "kernfs_node"."__parent",
}

wire!(Offsets = 388);
