//! What sysfs says of SR-IOV: the attributes of a physical function, the links between it and its virtual ones.

use super::{Function, Tree};
use crate::pci::Role;
use std::io;

/// The attributes that a function has for it.
pub(super) fn attributes(tree: &Tree, function: &Function) -> io::Result<()> {
    let directory = function.directory();
    match function.identity.role {
        Role::Ordinary => Ok(()),
        Role::Virtual => tree.attributes(&directory, &[("sriov_vf_msix_count", 0o200, "")]),
        Role::Physical(sriov) => tree.attributes(
            &directory,
            &[
                ("sriov_drivers_autoprobe", 0o644, "1"),
                ("sriov_numvfs", 0o644, "0"),
                ("sriov_offset", 0o444, &sriov.offset.to_string()),
                ("sriov_stride", 0o444, &sriov.stride.to_string()),
                ("sriov_totalvfs", 0o444, &sriov.total.to_string()),
                ("sriov_vf_device", 0o444, &format!("{:x}", sriov.device)),
                ("sriov_vf_total_msix", 0o444, "0"),
            ],
        ),
    }
}

impl Tree {
    /// Links a physical function's directory and that of its virtual function of this number to each other.
    ///
    /// # Errors
    /// What making links gave.
    pub fn link_part(&self, physical: &str, part: &str, number: u16) -> io::Result<()> {
        self.link(&format!("{part}/physfn"), physical)?;
        self.link(&format!("{physical}/virtfn{number}"), part)
    }

    /// Takes the link to a virtual function away.
    ///
    /// # Errors
    /// What removing it gave.
    pub fn unlink_part(&self, physical: &str, number: u16) -> io::Result<()> {
        self.remove(&format!("{physical}/virtfn{number}"))
    }
}
