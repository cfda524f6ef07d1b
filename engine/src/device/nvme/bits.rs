//! The bits of NVM Express 1.4: registers, queue entries, opcodes and status codes. No behaviour.

/// Controller registers, section 3.1: offsets in BAR0.
pub(super) mod reg {
    pub const CAP: u64 = 0x00;
    pub const VS: u64 = 0x08;
    pub const INTMS: u64 = 0x0c;
    pub const INTMC: u64 = 0x10;
    pub const CC: u64 = 0x14;
    pub const CSTS: u64 = 0x1c;
    pub const NSSR: u64 = 0x20;
    pub const AQA: u64 = 0x24;
    pub const ASQ: u64 = 0x28;
    pub const ACQ: u64 = 0x30;
    /// First optional register (CMBLOC): from here to the doorbells nothing is implemented.
    pub const OPTIONAL: u64 = 0x38;
    /// Submission queue 0 tail; two doorbells of 4 bytes a queue follow (CAP.DSTRD = 0).
    pub const DOORBELLS: u64 = 0x1000;
    /// The MSI-X table; accesses to it end in the PCI layer.
    pub const MSIX_TABLE: u64 = 0x2000;
    pub const MSIX_PBA: u64 = 0x3000;
    /// Size of BAR0.
    pub const BYTES: u64 = 0x4000;
}

/// 3.1.1 CAP: 4096 entries, contiguous queues required, ready within 10 s, subsystem reset, NVM command set,
/// memory pages of 4 KiB to 64 KiB, doorbell stride 4 bytes.
pub(super) const CAP: u64 = (MAX_ENTRIES as u64 - 1)
    | 1 << 16
    | 20 << 24
    | 1 << 36
    | 1 << 37
    | (MAX_PAGE_LG2 as u64 - 12) << 52;
/// Entries of the largest queue.
pub(super) const MAX_ENTRIES: u32 = 4096;
/// log2 of the largest memory page.
pub(super) const MAX_PAGE_LG2: u32 = 16;
/// 3.1.2 VS: 1.4.0.
pub(super) const VERSION: u32 = 0x0001_0400;
/// 3.1.9 NSSR: "NVMe".
pub(super) const NSSR_RESET: u32 = 0x4e56_4d65;

/// 3.1.5 CC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cc(pub u32);

impl Cc {
    /// All defined bits.
    pub const DEFINED: u32 = 0x00ff_fff1;

    pub fn enabled(self) -> bool {
        self.0 & 1 != 0
    }
    pub fn command_set(self) -> u32 {
        self.0 >> 4 & 7
    }
    pub fn page_lg2(self) -> u32 {
        12 + (self.0 >> 7 & 0xf)
    }
    pub fn arbitration(self) -> u32 {
        self.0 >> 11 & 7
    }
    pub fn shutdown(self) -> u32 {
        self.0 >> 14 & 3
    }
    pub fn sq_entry_lg2(self) -> u32 {
        self.0 >> 16 & 0xf
    }
    pub fn cq_entry_lg2(self) -> u32 {
        self.0 >> 20 & 0xf
    }
}

/// 3.1.6 CSTS.
pub(super) mod csts {
    pub const RDY: u32 = 1 << 0;
    pub const CFS: u32 = 1 << 1;
    pub const SHST: u32 = 3 << 2;
    pub const SHST_COMPLETE: u32 = 2 << 2;
    pub const NSSRO: u32 = 1 << 4;
}

/// log2 of a submission queue entry's size.
pub(super) const SQE_LG2: u32 = 6;
/// log2 of a completion queue entry's size.
pub(super) const CQE_LG2: u32 = 4;
/// The namespace id that means all namespaces.
pub(super) const ALL_NAMESPACES: u32 = 0xffff_ffff;

/// 4.2: a submission queue entry, taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sqe {
    pub opcode: u8,
    /// FUSE, reserved bits and PSDT.
    pub flags: u8,
    pub cid: u16,
    pub nsid: u32,
    pub prp1: u64,
    pub prp2: u64,
    /// Command dwords 10 to 15.
    pub cdw: [u32; 6],
}

impl Sqe {
    pub fn parse(b: &[u8; 64]) -> Sqe {
        let d = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let q = |i: usize| u64::from(d(i)) | u64::from(d(i + 4)) << 32;
        Sqe {
            opcode: b[0],
            flags: b[1],
            cid: u16::from_le_bytes([b[2], b[3]]),
            nsid: d(4),
            prp1: q(24),
            prp2: q(32),
            cdw: [d(40), d(44), d(48), d(52), d(56), d(60)],
        }
    }

    /// Command dword `n`, 10..=15.
    pub fn dw(&self, n: usize) -> u32 {
        self.cdw[n - 10]
    }

    pub fn fused(&self) -> bool {
        self.flags & 3 != 0
    }
    /// PRP or SGL for data transfer: 0 is PRP.
    pub fn psdt(&self) -> u8 {
        self.flags >> 6
    }
}

/// 4.6: a completion queue entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cqe {
    pub result: u32,
    pub sq_head: u16,
    pub sq: u16,
    pub cid: u16,
    pub status: Status,
}

impl Cqe {
    pub fn bytes(&self, phase: bool) -> [u8; 16] {
        let mut b = [0; 16];
        b[0..4].copy_from_slice(&self.result.to_le_bytes());
        b[8..10].copy_from_slice(&self.sq_head.to_le_bytes());
        b[10..12].copy_from_slice(&self.sq.to_le_bytes());
        b[12..14].copy_from_slice(&self.cid.to_le_bytes());
        b[14..16].copy_from_slice(&(self.status.0 << 1 | u16::from(phase)).to_le_bytes());
        b
    }
}

/// 4.6.1: the status field without the phase tag: SC 7:0, SCT 10:8, M 13, DNR 14.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status(pub u16);

/// More information is in the error log page.
pub(super) const MORE: u16 = 1 << 13;
/// The same command would fail again.
const DNR: u16 = 1 << 14;

const fn generic(code: u16) -> Status {
    Status(DNR | code)
}
const fn specific(code: u16) -> Status {
    Status(DNR | 1 << 8 | code)
}
const fn media(code: u16) -> Status {
    Status(2 << 8 | code)
}

impl Status {
    pub const SUCCESS: Status = Status(0);
    pub const INVALID_OPCODE: Status = generic(0x01);
    pub const INVALID_FIELD: Status = generic(0x02);
    pub const CID_CONFLICT: Status = generic(0x03);
    /// A repeat may succeed (the memory may be mapped by then): no DNR.
    pub const DATA_TRANSFER_ERROR: Status = Status(0x04);
    pub const ABORT_REQUESTED: Status = Status(0x07);
    pub const INVALID_NAMESPACE: Status = generic(0x0b);
    pub const COMMAND_SEQUENCE_ERROR: Status = generic(0x0c);
    pub const PRP_OFFSET_INVALID: Status = generic(0x13);
    pub const WRITE_PROTECTED: Status = generic(0x20);
    pub const LBA_OUT_OF_RANGE: Status = generic(0x80);

    pub const CQ_INVALID: Status = specific(0x00);
    pub const INVALID_QUEUE_ID: Status = specific(0x01);
    pub const INVALID_QUEUE_SIZE: Status = specific(0x02);
    pub const AER_LIMIT_EXCEEDED: Status = specific(0x05);
    pub const INVALID_VECTOR: Status = specific(0x08);
    pub const INVALID_LOG_PAGE: Status = specific(0x09);
    pub const INVALID_QUEUE_DELETION: Status = specific(0x0c);
    pub const FEATURE_NOT_SAVEABLE: Status = specific(0x0d);
    pub const FEATURE_NOT_NS_SPECIFIC: Status = specific(0x0f);

    pub const WRITE_FAULT: Status = media(0x80);
    pub const UNRECOVERED_READ_ERROR: Status = media(0x81);
    pub const COMPARE_FAILURE: Status = Status(DNR | 2 << 8 | 0x85);

    /// Media and data integrity errors count in the SMART log.
    pub fn is_media_error(self) -> bool {
        self == Status::WRITE_FAULT || self == Status::UNRECOVERED_READ_ERROR
    }
}

/// What most steps of a command return.
pub(super) type Done<T = ()> = Result<T, Status>;

/// Figure 139: admin opcodes.
pub(super) mod admin_op {
    pub const DELETE_SQ: u8 = 0x00;
    pub const CREATE_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const DELETE_CQ: u8 = 0x04;
    pub const CREATE_CQ: u8 = 0x05;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    pub const KEEP_ALIVE: u8 = 0x18;

    /// What reports call the command.
    pub fn name(opcode: u8) -> &'static str {
        match opcode {
            DELETE_SQ => "DELETE I/O SQ",
            CREATE_SQ => "CREATE I/O SQ",
            GET_LOG_PAGE => "GET LOG PAGE",
            DELETE_CQ => "DELETE I/O CQ",
            CREATE_CQ => "CREATE I/O CQ",
            IDENTIFY => "IDENTIFY",
            ABORT => "ABORT",
            SET_FEATURES => "SET FEATURES",
            GET_FEATURES => "GET FEATURES",
            ASYNC_EVENT_REQUEST => "ASYNC EVENT REQUEST",
            KEEP_ALIVE => "KEEP ALIVE",
            0x0d => "NAMESPACE MANAGEMENT",
            0x10 => "FIRMWARE COMMIT",
            0x11 => "FIRMWARE DOWNLOAD",
            0x14 => "DEVICE SELF-TEST",
            0x15 => "NAMESPACE ATTACHMENT",
            0x19 => "DIRECTIVE SEND",
            0x1a => "DIRECTIVE RECEIVE",
            0x1c => "VIRTUALIZATION MANAGEMENT",
            0x7c => "DOORBELL BUFFER CONFIG",
            0x80 => "FORMAT NVM",
            0x81 => "SECURITY SEND",
            0x82 => "SECURITY RECEIVE",
            0x84 => "SANITIZE",
            _ => "an unknown admin command",
        }
    }
}

/// Figure 346: NVM command set opcodes.
pub(super) mod io_op {
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;

    /// What reports call the command.
    pub fn name(opcode: u8) -> &'static str {
        match opcode {
            FLUSH => "FLUSH",
            WRITE => "WRITE",
            READ => "READ",
            COMPARE => "COMPARE",
            WRITE_ZEROES => "WRITE ZEROES",
            DATASET_MANAGEMENT => "DATASET MANAGEMENT",
            0x04 => "WRITE UNCORRECTABLE",
            0x0c => "VERIFY",
            0x0d => "RESERVATION REGISTER",
            0x0e => "RESERVATION REPORT",
            0x11 => "RESERVATION ACQUIRE",
            0x15 => "RESERVATION RELEASE",
            _ => "an unknown I/O command",
        }
    }
}
