//! The floor: a bare four-level table in VT-d's second-stage format. One writer without a lock, tables
//! never freed, no invalidation, no drain; a walk is four loads and the permission test.

use std::sync::atomic::{AtomicU64, Ordering};

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

#[repr(C, align(4096))]
struct Table([AtomicU64; 512]);

/// The table, leaked on purpose: nothing is ever freed.
pub struct Floor {
    root: &'static Table,
    tables: u64,
}

fn new_table() -> &'static Table {
    Box::leak(Box::new(Table([const { AtomicU64::new(0) }; 512])))
}

fn at(entry: u64) -> &'static Table {
    // SAFETY: entries above the last level are written only by `map`, with the address of a leaked table.
    unsafe { &*((entry & ADDRESS) as *const Table) }
}

fn index(iova: u64, level: u32) -> usize {
    (iova >> (12 + 9 * level)) as usize & 511
}

impl Floor {
    pub fn new() -> Self {
        Floor {
            root: new_table(),
            tables: 1,
        }
    }

    #[inline]
    pub fn map(&mut self, iova: u64, pa: u64) {
        let mut table = self.root;
        for level in (1..4).rev() {
            let slot = &table.0[index(iova, level)];
            let entry = slot.load(Ordering::Acquire);
            table = if entry != 0 {
                at(entry)
            } else {
                let child = new_table();
                self.tables += 1;
                slot.store(std::ptr::from_ref(child) as u64 | 3, Ordering::Release);
                child
            };
        }
        table.0[index(iova, 0)].store(pa | 3, Ordering::Release);
    }

    #[inline]
    pub fn unmap(&mut self, iova: u64) {
        let mut table = self.root;
        for level in (1..4).rev() {
            table = at(table.0[index(iova, level)].load(Ordering::Acquire));
        }
        table.0[index(iova, 0)].store(0, Ordering::Release);
    }

    #[inline]
    pub fn translate(&self, iova: u64) -> Option<u64> {
        let mut table = self.root;
        for level in (1..4).rev() {
            let entry = table.0[index(iova, level)].load(Ordering::Acquire);
            if entry & 1 == 0 {
                return None;
            }
            table = at(entry);
        }
        let entry = table.0[index(iova, 0)].load(Ordering::Acquire);
        (entry & 1 != 0).then_some(entry & ADDRESS | iova & 0xfff)
    }

    pub fn table_bytes(&self) -> u64 {
        self.tables * 4096
    }
}
