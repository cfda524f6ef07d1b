//! Where firmware would have put the BARs: what sysfs `resource` and an unopened device's configuration space show.
//!
//! Nothing decodes these addresses; they only have to be what a client can believe: aligned, disjoint, in the windows
//! of a PC. Memory of 64-bit BARs lies from 256 GiB up, of 32-bit BARs from 2 GiB up, I/O from 0x1000 up. A
//! 32-bit or I/O BAR that finds no room is shown unassigned (all zero), as firmware leaves it.

use crate::pci::{Bar, Identity};

/// One BAR's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Resource {
    /// First address; 0 if there is none.
    pub first: u64,
    /// Last address; 0 if there is none.
    pub last: u64,
    /// The kernel's `IORESOURCE_*` flags with the BAR's own low bits, as sysfs shows them.
    pub flags: u64,
}

/// `IORESOURCE_IO`, `_MEM`, `_PREFETCH`, `_SIZEALIGN`, `_MEM_64`.
const IO: u64 = 0x100;
const MEM: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const SIZEALIGN: u64 = 0x4_0000;
const MEM_64: u64 = 0x10_0000;

/// The first address above the window of 32-bit memory BARs: the IOAPIC's.
const LOW_END: u64 = 0xfec0_0000;

/// The windows, each with its next free address.
struct Windows {
    io: u64,
    low: u64,
    high: u64,
}

/// Places the BARs of all functions of a machine, in order.
pub fn assign(functions: &[Identity]) -> Vec<[Resource; 6]> {
    let mut windows = Windows {
        io: 0x1000,
        low: 0x8000_0000,
        high: 0x40_0000_0000,
    };
    functions
        .iter()
        .map(|identity| identity.bars.map(|bar| windows.place(bar)))
        .collect()
}

impl Windows {
    fn place(&mut self, bar: Bar) -> Resource {
        let (next, end, bytes, flags) = match bar {
            Bar::None => return Resource::default(),
            Bar::Io { bytes } => (&mut self.io, 0x1_0000, bytes, IO | SIZEALIGN | 0x1),
            Bar::Memory {
                bytes,
                wide,
                prefetch,
            } => {
                let prefetch = if prefetch { PREFETCH | 0x8 } else { 0 };
                match wide {
                    true => (
                        &mut self.high,
                        1 << 46,
                        bytes,
                        MEM | MEM_64 | SIZEALIGN | 0x4 | prefetch,
                    ),
                    false => (&mut self.low, LOW_END, bytes, MEM | SIZEALIGN | prefetch),
                }
            }
        };
        // Memory is handed out in whole pages, so that no page belongs to two devices.
        let stride = if flags & IO != 0 {
            bytes.max(32)
        } else {
            bytes.max(4096)
        };
        let first = next.next_multiple_of(stride);
        if first.checked_add(stride).is_none_or(|after| after > end) {
            return Resource::default();
        }
        *next = first + stride;
        Resource {
            first,
            last: first + bytes - 1,
            flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(bars: [Bar; 6]) -> Identity {
        Identity {
            vendor: 1,
            device: 2,
            subsystem: (3, 4),
            class: 5,
            revision: 6,
            bars,
            interrupt_pin: 0,
            msi: 0,
            msix: None,
            express: true,
            role: crate::pci::Role::default(),
        }
    }

    #[test]
    fn bars_are_aligned_disjoint_and_flagged_as_the_kernel_does() {
        let memory = |bytes, wide| Bar::Memory {
            bytes,
            wide,
            prefetch: false,
        };
        let none = Bar::None;
        let placed = assign(&[
            function([
                memory(16 << 10, true),
                none,
                Bar::Io { bytes: 8 },
                memory(64, false),
                none,
                none,
            ]),
            function([
                memory(1 << 20, false),
                Bar::Io { bytes: 256 },
                none,
                none,
                none,
                none,
            ]),
        ]);
        assert_eq!(
            placed[0][0],
            Resource {
                first: 0x40_0000_0000,
                last: 0x40_0000_3fff,
                flags: 0x14_0204
            }
        );
        assert_eq!(
            placed[0][2],
            Resource {
                first: 0x1000,
                last: 0x1007,
                flags: 0x4_0101
            }
        );
        assert_eq!(
            placed[0][3],
            Resource {
                first: 0x8000_0000,
                last: 0x8000_003f,
                flags: 0x4_0200
            }
        );
        assert_eq!(
            placed[1][0],
            Resource {
                first: 0x8010_0000,
                last: 0x801f_ffff,
                flags: 0x4_0200
            }
        );
        assert_eq!(
            placed[1][1],
            Resource {
                first: 0x1100,
                last: 0x11ff,
                flags: 0x4_0101
            }
        );
        assert_eq!(placed[1][2], Resource::default());
    }

    #[test]
    fn a_bar_that_finds_no_room_is_unassigned() {
        let big = Bar::Memory {
            bytes: 1 << 30,
            wide: false,
            prefetch: false,
        };
        let placed = assign(&[function([
            big,
            big,
            Bar::None,
            Bar::None,
            Bar::None,
            Bar::None,
        ])]);
        assert_ne!(placed[0][0], Resource::default());
        assert_eq!(placed[0][1], Resource::default());
    }
}
