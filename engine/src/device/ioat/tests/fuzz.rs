//! Arbitrary register accesses and descriptors: no panic, nothing beyond memory, and a reset always helps.

use super::*;
use per_channel::*;
use proptest::prelude::*;

/// Takes numbers from bytes, zeroes when they run out.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = N.min(self.0.len());
        out[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        out
    }
    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Accesses registers and writes descriptors, plausible ones more often than not.
fn fuzz_ioat(data: &[u8]) {
    let mut rig = Rig::with(&IoatConfig {
        channels: 2,
        ..IoatConfig::default()
    });
    let mut bytes = Bytes(data);
    while !bytes.0.is_empty() {
        let kind = bytes.u8();
        let size = 1 << (kind >> 2 & 3);
        let near = |bytes: &mut Bytes<'_>| CHAIN + u64::from(bytes.u8()) * 32;
        match kind & 3 {
            0 => {
                let at = near(&mut bytes);
                let quads = [
                    bytes.u64(),
                    near(&mut bytes),
                    near(&mut bytes),
                    near(&mut bytes),
                ];
                let plausible = if kind & 0x10 != 0 {
                    0x0100_073f_0000_3fff
                } else {
                    u64::MAX
                };
                for (index, quad) in (0..).zip(quads) {
                    rig.poke(
                        at + index * 8,
                        if index == 0 { quad & plausible } else { quad },
                    );
                }
            }
            1 => {
                let chain = near(&mut bytes);
                rig.write(BLOCK + CHAINADDR, 8, chain);
                rig.write(BLOCK + DMACOUNT, 2, bytes.u8().into());
            }
            2 => {
                rig.read(u64::from(bytes.u8()) * 2, size);
            }
            _ => {
                let offset = u64::from(bytes.u8()) * 2;
                let value = bytes.u64() >> ((kind & 0xf0) / 4);
                rig.write(offset, size, value);
            }
        }
    }
    rig.ioat.reset(&mut rig.bus);
    rig.describe(0, 8, COMPLETION, 0x3_0000, 0x8000);
    rig.run(1);
    assert_eq!(rig.peek(STATUS), CHAIN | DONE);
    assert_eq!(rig.peek(0x8000), rig.peek(0x3_0000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn fuzzed_accesses_leave_a_device_that_a_reset_brings_back(data in prop::collection::vec(any::<u8>(), 0..512)) {
        fuzz_ioat(&data);
    }
}
