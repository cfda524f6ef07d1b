//! Why a DMA was blocked, told from what the client did: never mapped, unmapped too early, beyond the end, wrong
//! direction, bus master off.

use swiommu_iommu::{Access, Prot, Reason};
use swiommu_mem::UserAddr;

use super::{Blocked, Cause, Class, Dma, Evidence, Finding, call_line, called_from, plain};
use crate::calls::CallRecord;
use crate::iommufd::{Area, Ioas};
use crate::pci::Doing;
use crate::pci::function::Function;

/// `0000:01:00.0 (nvme)`
pub fn device_name(function: &Function) -> String {
    format!("{} ({})", function.bdf(), function.config().kind.name())
}

/// Builds the finding of a blocked DMA. `ioas` is the address space the device is attached to.
pub fn finding(blocked: &Blocked<'_>, ioas: Option<&Ioas>) -> Finding {
    let direction = match blocked.access {
        Access::Read => "read",
        Access::Write => "write",
    };
    let at = blocked.iova.wrapping_add(blocked.done);
    let verdict = verdict(blocked, ioas, at);
    let bdf = blocked.function.bdf();
    let mut finding = plain(Class::ClientBug, verdict.kind, blocked.thread);
    finding.title = format!(
        "DMA {direction} of {} bytes at IOVA {:#x} by {}",
        blocked.bytes,
        blocked.iova,
        device_name(blocked.function)
    );
    finding.device = Some(bdf.to_string());
    finding.dma = Some(Dma {
        requester: format!("{:02x}:{:02x}.{}", bdf.bus, bdf.slot, bdf.function),
        iova: blocked.iova,
        bytes: blocked.bytes,
        done: blocked.done,
        direction,
        fault: match &blocked.cause {
            Cause::Fault(fault) => Some(fault.to_string()),
            _ => None,
        },
    });
    finding.help = verdict.help;
    finding
        .evidence
        .push(Evidence::line(format!("why: {}", verdict.why)));
    if blocked.done > 0 {
        let text = format!(
            "the first {} bytes were moved, the one at {at:#x} was not",
            blocked.done
        );
        finding.evidence.push(Evidence::line(text));
    }
    finding.evidence.extend(verdict.evidence);
    if let Some(text) = doing(&blocked.doing) {
        finding
            .evidence
            .push(Evidence::line(format!("the device was {text}")));
    }
    let started = format!(
        "started by a register access {}",
        called_from(blocked.thread, blocked.site)
    );
    finding.evidence.push(Evidence::line(started));
    if let Cause::Fault(fault) = &blocked.cause {
        finding
            .evidence
            .push(Evidence::line(format!("the IOMMU recorded: {fault}")));
    }
    finding
}

fn doing(doing: &Doing) -> Option<String> {
    if doing.what.is_empty() {
        return None;
    }
    let mut text = format!("doing: {}", doing.what);
    if let Some(queue) = doing.queue {
        text += &format!(", queue {queue}");
    }
    if let Some(command) = doing.command {
        text += &format!(", command {command}");
    }
    Some(text)
}

struct Verdict {
    kind: &'static str,
    why: String,
    evidence: Vec<Evidence>,
    help: &'static str,
}

/// Tells the kinds apart from what is and what was mapped at the address that failed.
fn verdict(blocked: &Blocked<'_>, ioas: Option<&Ioas>, at: u64) -> Verdict {
    let simple = |kind, why: String, help| Verdict {
        kind,
        why,
        evidence: Vec::new(),
        help,
    };
    match (&blocked.cause, ioas) {
        (Cause::BusMasterOff, _) => simple(
            "bus-master-off",
            "the bus master bit of the PCI command register is clear".into(),
            "Set bit 2 of the command register (offset 4 of the config region) before the device is started.",
        ),
        (Cause::Vanished(va), _) => Verdict {
            kind: "memory-gone",
            why: format!(
                "the client memory at {:#x} behind the mapping is not there any more",
                va.0
            ),
            evidence: mapped_at(ioas, at),
            help: "Was its file truncated, or the memory given back with MADV_FREE or a raw munmap, while the device used it?",
        },
        (Cause::PeerRefused, _) => Verdict {
            kind: "peer-refused",
            why: "the mapping leads to registers of a device, which did not take the access".into(),
            evidence: mapped_at(ioas, at),
            help: "Peer DMA needs memory decoding on in the target, and the target must not be the device itself.",
        },
        (Cause::NoMemory, _) => simple(
            "no-memory",
            "there is no memory at this bus address, and no IOMMU that would translate it".into(),
            "Without an IOMMU a device is given physical addresses: /proc/self/pagemap has the page frames.",
        ),
        (Cause::Fault(_), None) => simple(
            "no-address-space",
            "the device is not attached to an address space".into(),
            "Stop the device before its group leaves the container.",
        ),
        (Cause::Fault(_), Some(ioas)) => unmapped(blocked, ioas, at),
    }
}

fn unmapped(blocked: &Blocked<'_>, ioas: &Ioas, at: u64) -> Verdict {
    let now = ioas.overlapping(at, at).next();
    if let Some((first, area)) =
        now.filter(|(_, area)| !area.prot.contains(wanted(blocked.access).0))
    {
        return wrong_direction(blocked, first, area);
    }
    if let Some((first, area)) = now.filter(|_| !ioas.translates(at)) {
        return Verdict {
            kind: "memory-gone",
            why: "the pages behind the mapping could not be kept when the client unmapped them"
                .into(),
            evidence: vec![mapped(first, area)],
            help: "Keep memory mapped until UNMAP_DMA.",
        };
    }
    // The IOMMU blocked it, so what is mapped there by now was mapped while the report waited for the address space.
    let since = now.map(|(first, area)| {
        call_line(
            &format!("[{first:#x}..={:#x}] was mapped since", area.last),
            area.mapped(),
        )
    });
    let gone = ioas.last_gone(at);
    let reached = (blocked.done > 0)
        .then(|| {
            ioas.overlapping(at.wrapping_sub(1), at.wrapping_sub(1))
                .next()
        })
        .flatten();
    let mut evidence = Vec::new();
    let (kind, why, help) = if let Some((first, area)) = reached.filter(|(_, area)| area.last < at)
    {
        evidence.push(mapped(first, area));
        (
            "beyond-the-end",
            format!(
                "the transfer runs beyond the end of the mapping [{first:#x}..={:#x}]",
                area.last
            ),
            "Map as many bytes as the device was told to move, or tell it to move fewer.",
        )
    } else if gone.is_some() {
        (
            "use-after-unmap",
            format!("the mapping at {at:#x} was taken away before the device was done"),
            "Wait for the command's completion (or reset the device) before UNMAP_DMA.",
        )
    } else {
        let (why, help) = never(blocked, at, since.is_some());
        ("never-mapped", why, help)
    };
    if let Some(gone) = gone {
        let range = format!("[{:#x}..={:#x}]", gone.first, gone.last);
        evidence.push(was_mapped(
            gone.first,
            gone.last,
            gone.va,
            gone.prot,
            gone.mapped(),
        ));
        evidence.push(call_line(&format!("{range} was unmapped"), &gone.unmapped));
    }
    match since {
        Some(since) => evidence.push(since),
        None if kind != "beyond-the-end" => evidence.extend(near(ioas, at)),
        None => {}
    }
    Verdict {
        kind,
        why,
        evidence,
        help,
    }
}

/// Why there never was a mapping.
fn never(blocked: &Blocked<'_>, at: u64, since: bool) -> (String, &'static str) {
    let check = "Was the address translated to an IOVA, and MAP_DMA checked for errors?";
    let usable = "VFIO_IOMMU_GET_INFO lists the ranges that can be mapped.";
    let reason = match &blocked.cause {
        Cause::Fault(fault) => Some(fault.reason),
        _ => None,
    };
    match reason {
        Some(Reason::InterruptWindow) => (
            format!(
                "{at:#x} lies in the window of interrupt messages, where nothing can be mapped"
            ),
            usable,
        ),
        Some(Reason::BeyondWidth) => (
            format!("{at:#x} lies beyond what the IOMMU can address"),
            usable,
        ),
        _ if since => (
            format!("nothing had been mapped at {at:#x} yet"),
            "MAP_DMA must return before the device is started.",
        ),
        _ => (format!("nothing was ever mapped at {at:#x}"), check),
    }
}

/// The mapping at an address as evidence, if there is one.
fn mapped_at(ioas: Option<&Ioas>, at: u64) -> Vec<Evidence> {
    let area = ioas.and_then(|ioas| ioas.overlapping(at, at).next());
    area.map(|(first, area)| mapped(first, area))
        .into_iter()
        .collect()
}

/// The permission an access needs, and the flag that gives it.
fn wanted(access: Access) -> (Prot, &'static str) {
    match access {
        Access::Read => (Prot::READ, "VFIO_DMA_MAP_FLAG_READ"),
        Access::Write => (Prot::WRITE, "VFIO_DMA_MAP_FLAG_WRITE"),
    }
}

fn wrong_direction(blocked: &Blocked<'_>, first: u64, area: &Area) -> Verdict {
    let wanted = wanted(blocked.access).1;
    Verdict {
        kind: "wrong-direction",
        why: format!("the mapping was made without {wanted}"),
        evidence: vec![mapped(first, area)],
        help: "READ and WRITE are the device's view: a buffer that the device fills needs WRITE.",
    }
}

fn mapped(first: u64, area: &Area) -> Evidence {
    was_mapped(first, area.last, area.va, area.prot, area.mapped())
}

fn was_mapped(first: u64, last: u64, va: UserAddr, prot: Prot, by: &CallRecord) -> Evidence {
    let prot = match (prot.contains(Prot::READ), prot.contains(Prot::WRITE)) {
        (true, true) => "read, write",
        (true, false) => "read",
        _ => "write",
    };
    let text = format!(
        "[{first:#x}..={last:#x}] was mapped ({prot}) to {:#x}",
        va.0
    );
    call_line(&text, by)
}

/// Bytes as a person counts them: exactly while that helps, then in the largest unit there is a whole one of.
fn distance(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    match bytes.checked_ilog2().unwrap_or(0) / 10 {
        0 | 1 => format!("{bytes} bytes"),
        unit => format!(
            "about {} {}",
            bytes >> (10 * unit),
            units[unit as usize - 1]
        ),
    }
}

/// The mappings on both sides of an address.
fn near(ioas: &Ioas, at: u64) -> Vec<Evidence> {
    let [before, after] = ioas.neighbours(at);
    let mut lines = Vec::new();
    if let Some((first, area)) = before {
        let gap = distance(at - area.last - 1);
        lines.push(Evidence::line(format!(
            "{at:#x} is {gap} after the end of [{first:#x}..={:#x}]",
            area.last
        )));
    }
    if let Some((first, area)) = after {
        let gap = distance(first - at);
        lines.push(Evidence::line(format!(
            "{at:#x} is {gap} before [{first:#x}..={:#x}]",
            area.last
        )));
    }
    if lines.is_empty() {
        lines.push(Evidence::line("nothing is mapped in this address space"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Bdf, DeviceConfig, DeviceKind, EduConfig};
    use swiommu_iommu::{Fault, Iova, Kind};

    #[test]
    fn a_device_without_an_address_space_is_told_so() {
        let bdf = Bdf {
            segment: 0,
            bus: 1,
            slot: 2,
            function: 3,
        };
        let kind = DeviceKind::Edu(EduConfig::default());
        let function = Function::new(0, bdf, DeviceConfig::new(bdf.to_string(), 1, kind));
        let reason = Reason::ContextNotPresent;
        let kind = Kind::Vtd { scalable: false };
        let fault = Fault {
            stream: function.stream(),
            iova: Iova(0x1000),
            access: Access::Read,
            reason,
            domain: None,
            kind,
        };
        let blocked = Blocked {
            function: &function,
            iova: 0x1000,
            bytes: 8,
            done: 0,
            access: Access::Read,
            cause: Cause::Fault(fault),
            doing: Doing::default(),
            thread: 7,
            site: 0,
        };
        let finding = finding(&blocked, None);
        assert_eq!(
            (finding.class, finding.kind),
            (Class::ClientBug, "no-address-space")
        );
        assert_eq!(
            finding.title,
            "DMA read of 8 bytes at IOVA 0x1000 by 0000:01:02.3 (edu)"
        );
        assert_eq!(
            finding.dma.map(|dma| dma.requester).as_deref(),
            Some("01:02.3")
        );
        assert!(
            finding
                .evidence
                .iter()
                .any(|line| line.text == "started by a register access in thread 7")
        );
    }

    #[test]
    fn distances_are_exact_while_that_helps() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 bytes"),
            (0xf_ffff, "1048575 bytes"),
            (1 << 20, "about 1 MiB"),
            (3 << 30, "about 3 GiB"),
            (u64::MAX, "about 15 EiB"),
        ] {
            assert_eq!(distance(bytes), text);
        }
    }
}
