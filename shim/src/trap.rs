//! A trapped register access: from the fault handler to the device, in the faulting thread.
#![allow(unsafe_code)] // works on the interrupted registers

use swiommu_engine::door::Mmio;
use swiommu_mem::{Client, UserAddr};

use crate::mmio::{self, INSTRUCTION_MAX, Registers, Stop};
use crate::signals::Trapped;
use crate::{engine, sys, traps};

/// The ranges an instruction may touch: looked up as it needs them, the last one kept.
struct Registers64<'a> {
    call: &'a swiommu_engine::door::Call<'a>,
    range: Option<traps::Range>,
}

impl Registers64<'_> {
    /// The trapped range that covers an address.
    fn find(&mut self, at: u64) -> Option<&traps::Range> {
        let covers = |range: &traps::Range| range.first as u64 <= at && at <= range.last as u64;
        if !self.range.as_ref().is_some_and(covers) {
            self.range = traps::at(at as usize).filter(|range| range.trap);
        }
        self.range.as_ref()
    }

    fn access(&mut self, at: u64, bytes: u8, access: Mmio) -> Option<u64> {
        let call = self.call;
        match self.find(at) {
            Some(range) => range.file.mmio(
                call,
                range.offset + (at - range.first as u64),
                bytes,
                access,
            ),
            // Unmapped meanwhile, by another thread.
            None => Some(u64::MAX),
        }
    }
}

impl mmio::Bus for Registers64<'_> {
    fn is_trapped(&self, at: u64) -> bool {
        match &self.range {
            Some(range) if range.first as u64 <= at && at <= range.last as u64 => true,
            _ => traps::at(at as usize).is_some_and(|range| range.trap),
        }
    }

    fn read(&mut self, at: u64, bytes: u8) -> Option<u64> {
        self.access(at, bytes, Mmio::Read)
    }

    fn write(&mut self, at: u64, bytes: u8, value: u64) -> Option<()> {
        self.access(at, bytes, Mmio::Write(value)).map(drop)
    }
}

/// The bit of a page fault's error code that says that a write was tried.
const FAULT_WRITE: i64 = 2;

/// Carries out the instruction that faulted at `address` if that is a register page of ours. It is the client's own
/// fault, too, when it mapped the page without this right (reading a page mapped for writing only is allowed, as on
/// x86), or the instruction cannot be carried out (reported).
pub fn on_fault(address: u64, context: &mut libc::ucontext_t) -> Trapped {
    if swiommu_mem::share::is_moving(address) {
        return Trapped::Done;
    }
    let Some(range) = traps::at(address as usize).filter(|range| range.trap) else {
        return Trapped::NotOurs;
    };
    // The page fault's error code says what was tried.
    let wrote = context.uc_mcontext.gregs[libc::REG_ERR as usize] & FAULT_WRITE != 0;
    let allowed = if wrote {
        libc::PROT_WRITE
    } else {
        libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC
    };
    if range.prot & allowed == 0 {
        return Trapped::NotOurs;
    }
    // SAFETY: the fault handler hands the live context of this thread to its hook, and runs until we return.
    let mut registers = unsafe { Registers::of_context(context) };
    let site = registers.rip;
    let done = engine::call(site as usize, |call| {
        let mut bus = Registers64 {
            call,
            range: Some(range),
        };
        let client = engine::client();
        let (code, bytes) = instruction(client, site);
        mmio::emulate(&mut registers, &code[..bytes], client, &mut bus)
    });
    match done {
        Ok(()) => {
            // SAFETY: as above.
            unsafe { registers.to_context(context) };
            Trapped::Done
        }
        Err(Stop::Fault { at }) => Trapped::Signal(libc::SIGSEGV, at.0),
        Err(Stop::NoPage { at }) => Trapped::Signal(libc::SIGBUS, at.0),
        Err(Stop::Unknown { text }) => {
            sys::stderr(&[
                "swiommu: not supported by swiommu: a register access by ",
                &text,
                "\n",
            ]);
            Trapped::NotOurs
        }
    }
}

/// The bytes at rip, as many as can be read.
fn instruction(client: Client, rip: u64) -> ([u8; INSTRUCTION_MAX], usize) {
    let mut code = [0; INSTRUCTION_MAX];
    let read = match client.read(UserAddr(rip), &mut code) {
        Ok(()) => INSTRUCTION_MAX,
        Err(fault) => fault.done as usize,
    };
    (code, read)
}
