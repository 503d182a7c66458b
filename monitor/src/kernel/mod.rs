//! The only user of aya: loads and attaches the kernel programs, fills their maps, reads their
//! rings.
