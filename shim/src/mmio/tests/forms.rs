//! Encodings of instructions with one memory operand, chosen at random from every form the emulator claims.

use super::native::ARENA;
use proptest::prelude::*;

/// One encoding and the registers it needs.
#[derive(Clone, Debug)]
pub struct Sample {
    pub code: Vec<u8>,
    pub gpr: [u64; 16],
    pub rflags: u64,
}

/// What comes after the opcode.
#[derive(Clone, Copy, Debug)]
enum Tail {
    None,
    Imm8,
    /// 2 bytes with the 66 prefix, else 4.
    Imm,
}

/// Opcode, modrm.reg (`None`: any register), tail, what may precede it.
#[derive(Clone, Copy, Debug)]
struct Form {
    opcode: [u8; 3],
    length: usize,
    reg: Option<u8>,
    tail: Tail,
    /// Mandatory prefix (66, F2, F3), 0 for none.
    prefix: u8,
    wide: Wide,
    lock: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wide {
    /// 66 and REX.W as one likes.
    Any,
    /// 66 forbidden.
    No66,
    /// Only as it stands, REX.W at will.
    W,
}

const fn form(opcode: &[u8], reg: Option<u8>, tail: Tail) -> Form {
    let mut bytes = [0; 3];
    let mut i = 0;
    while i < opcode.len() {
        bytes[i] = opcode[i];
        i += 1;
    }
    Form {
        opcode: bytes,
        length: opcode.len(),
        reg,
        tail,
        prefix: 0,
        wide: Wide::Any,
        lock: false,
    }
}

fn forms() -> Vec<Form> {
    let mut all = Vec::new();
    for k in 0..8u8 {
        for low in [0, 1] {
            all.push(Form {
                lock: k != 7,
                ..form(&[8 * k + low], None, Tail::None)
            });
            all.push(form(&[8 * k + low + 2], None, Tail::None));
        }
        all.push(Form {
            lock: k != 7,
            ..form(&[0x80], Some(k), Tail::Imm8)
        });
        all.push(Form {
            lock: k != 7,
            ..form(&[0x81], Some(k), Tail::Imm)
        });
        all.push(Form {
            lock: k != 7,
            ..form(&[0x83], Some(k), Tail::Imm8)
        });
        if k != 6 {
            all.extend([0xc0, 0xc1].map(|o| form(&[o], Some(k), Tail::Imm8)));
            all.extend([0xd0, 0xd1, 0xd2, 0xd3].map(|o| form(&[o], Some(k), Tail::None)));
        }
    }
    all.extend([0x88, 0x89, 0x8a, 0x8b, 0x84, 0x85].map(|o| form(&[o], None, Tail::None)));
    all.extend([
        form(&[0xc6], Some(0), Tail::Imm8),
        form(&[0xc7], Some(0), Tail::Imm),
    ]);
    all.extend([
        form(&[0xf6], Some(0), Tail::Imm8),
        form(&[0xf7], Some(0), Tail::Imm),
    ]);
    for (opcode, reg) in [
        (0xf6, 2),
        (0xf7, 2),
        (0xf6, 3),
        (0xf7, 3),
        (0xfe, 0),
        (0xfe, 1),
        (0xff, 0),
        (0xff, 1),
    ] {
        all.push(Form {
            lock: true,
            ..form(&[opcode], Some(reg), Tail::None)
        });
    }
    all.extend([0x86, 0x87].map(|o| Form {
        lock: true,
        ..form(&[o], None, Tail::None)
    }));
    for opcode in [0xc0, 0xc1, 0xb0, 0xb1, 0xab, 0xb3, 0xbb] {
        all.push(Form {
            lock: true,
            ..form(&[0x0f, opcode], None, Tail::None)
        });
    }
    for opcode in [0xb6, 0xb7, 0xbe, 0xbf, 0xa3, 0xaf, 0xbc, 0xbd] {
        all.push(form(&[0x0f, opcode], None, Tail::None));
    }
    all.push(Form {
        wide: Wide::W,
        ..form(&[0x63], None, Tail::None)
    });
    all.push(form(&[0x0f, 0xba], Some(4), Tail::Imm8));
    all.extend([5, 6, 7].map(|k| Form {
        lock: true,
        ..form(&[0x0f, 0xba], Some(k), Tail::Imm8)
    }));
    for condition in 0..16 {
        all.push(form(&[0x0f, 0x90 + condition], Some(0), Tail::None));
        all.push(form(&[0x0f, 0x40 + condition], None, Tail::None));
    }
    all.extend([
        form(&[0x69], None, Tail::Imm),
        form(&[0x6b], None, Tail::Imm8),
    ]);
    if std::arch::is_x86_feature_detected!("movbe") {
        all.extend([0xf0, 0xf1].map(|o| form(&[0x0f, 0x38, o], None, Tail::None)));
    }
    all.push(Form {
        wide: Wide::No66,
        ..form(&[0x0f, 0xc3], None, Tail::None)
    });
    all.extend([
        form(&[0xff], Some(6), Tail::None),
        form(&[0x8f], Some(0), Tail::None),
    ]);
    all
}

/// SSE moves: mandatory prefix and second opcode byte.
const SSE: [(u8, u8); 37] = [
    (0, 0x10),
    (0, 0x11),
    (0, 0x28),
    (0, 0x29),
    (0, 0x2b),
    (0x66, 0x10),
    (0x66, 0x11),
    (0x66, 0x28),
    (0x66, 0x29),
    (0x66, 0x2b),
    (0x66, 0x6f),
    (0x66, 0x7f),
    (0xf3, 0x6f),
    (0xf3, 0x7f),
    (0x66, 0x6e),
    (0x66, 0x7e),
    (0xf3, 0x7e),
    (0x66, 0xd6),
    (0, 0x12),
    (0, 0x13),
    (0, 0x16),
    (0, 0x17),
    (0x66, 0x12),
    (0x66, 0x13),
    (0x66, 0x16),
    (0x66, 0x17),
    (0xf3, 0x10),
    (0xf3, 0x11),
    (0xf2, 0x10),
    (0xf2, 0x11),
    (0x66, 0xe7),
    (0xf2, 0xf0),
    (0x66, 0x6f),
    (0xf3, 0x7f),
    (0, 0x29),
    (0, 0x2b),
    (0x66, 0xe7),
];

fn vector_forms() -> Vec<Form> {
    let mut all: Vec<Form> = SSE
        .iter()
        .map(|&(prefix, opcode)| Form {
            prefix,
            wide: Wide::W,
            ..form(&[0x0f, opcode], None, Tail::None)
        })
        .collect();
    if std::arch::is_x86_feature_detected!("sse4.1") {
        all.push(Form {
            prefix: 0x66,
            wide: Wide::W,
            ..form(&[0x0f, 0x38, 0x2a], None, Tail::None)
        });
    }
    all
}

/// How the memory operand is written.
#[derive(Clone, Copy, Debug)]
struct Place {
    base: u8,
    index: Option<(u8, u8)>,
    disp: i8,
    at: u64,
}

fn place(arena: u64, align: u64) -> impl Strategy<Value = Place> {
    let index = proptest::option::of((
        prop::sample::select(vec![0u8, 1, 2, 3, 5, 6, 7, 8, 12, 15]),
        0u8..4,
    ));
    (0u8..16, index, any::<i8>(), 512..ARENA as u64 - 512).prop_map(
        move |(base, index, disp, offset)| {
            let index = index.filter(|(register, _)| *register != base);
            Place {
                base,
                index,
                disp,
                at: (arena + offset) & !(align - 1),
            }
        },
    )
}

impl Place {
    /// modrm, sib and displacement.
    fn encode(&self, reg: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.index {
            None if self.base & 7 != 4 => bytes.push(0x40 | (reg & 7) << 3 | self.base & 7),
            None => bytes.extend([0x44 | (reg & 7) << 3, 0x24]),
            Some((index, scale)) => {
                bytes.extend([
                    0x44 | (reg & 7) << 3,
                    scale << 6 | (index & 7) << 3 | self.base & 7,
                ]);
            }
        }
        bytes.push(self.disp as u8);
        bytes
    }

    fn rex(&self, reg: u8) -> u8 {
        let index = self.index.map_or(0, |(index, _)| index);
        (reg >> 3) << 2 | (index >> 3) << 1 | self.base >> 3
    }

    /// Sets base and index so that they add up to the place.
    fn aim(&self, gpr: &mut [u64; 16]) {
        let mut base = self.at.wrapping_sub(self.disp as i64 as u64);
        if let Some((index, scale)) = self.index {
            gpr[index as usize] &= 0xfff;
            base = base.wrapping_sub(gpr[index as usize] << scale);
        }
        gpr[self.base as usize] = base;
    }
}

fn sample_of(forms: Vec<Form>, arena: u64, align: u64) -> impl Strategy<Value = Sample> {
    let choices = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let registers = (any::<[u64; 16]>(), any::<u64>());
    let form = prop::sample::select(forms);
    (
        form,
        place(arena, align),
        0u8..16,
        choices,
        registers,
        any::<[u8; 4]>(),
    )
        .prop_map(
            move |(form, place, reg, (word, wide, force_rex, lock), (mut gpr, flags), imm)| {
                let mut code = Vec::new();
                if lock
                    && form.lock
                    && (form.reg.is_some()
                        || form.length == 2
                        || form.opcode[0] & 2 == 0
                        || form.opcode[0] >= 0x80)
                {
                    code.push(0xf0);
                }
                let word = word && form.wide == Wide::Any;
                if word {
                    code.push(0x66);
                }
                if form.prefix != 0 {
                    code.push(form.prefix);
                }
                let bit_offset =
                    form.length == 2 && matches!(form.opcode[1], 0xa3 | 0xab | 0xb3 | 0xbb);
                let stack = matches!((form.opcode[0], form.reg), (0xff, Some(6)) | (0x8f, _))
                    && form.length == 1;
                // A stack pointer that is also the base must point to the stack by itself.
                let index = place.index.filter(|_| !stack || place.base != 4);
                let place = Place { index, ..place };
                let reg = if bit_offset && reg == place.base {
                    reg ^ 1
                } else {
                    form.reg.unwrap_or(reg)
                };
                let rex = 0x40 | u8::from(wide) << 3 | place.rex(reg);
                if rex != 0x40 || force_rex {
                    code.push(rex);
                }
                code.extend(&form.opcode[..form.length]);
                code.extend(place.encode(reg));
                match form.tail {
                    Tail::None => {}
                    Tail::Imm8 => code.push(imm[0]),
                    Tail::Imm if word && !wide => code.extend(&imm[..2]),
                    Tail::Imm => code.extend(imm),
                }
                // Registers with a meaning of their own get values that stay inside the arena.
                if bit_offset {
                    gpr[reg as usize] = (gpr[reg as usize] as i64 >> 52) as u64;
                }
                if stack {
                    gpr[4] = arena + 64 + (gpr[4] & 0xff0);
                }
                if flags & 1 << 40 != 0 {
                    gpr[0] = 0x11;
                }
                place.aim(&mut gpr);
                if stack && place.base == 4 && form.opcode[0] == 0x8f {
                    gpr[4] = gpr[4].wrapping_sub(8);
                }
                Sample {
                    code,
                    gpr,
                    rflags: flags & 0x8d5 | 2,
                }
            },
        )
}

pub fn integer(arena: u64) -> impl Strategy<Value = Sample> {
    sample_of(forms(), arena, 1)
}

pub fn vector(arena: u64) -> impl Strategy<Value = Sample> {
    sample_of(vector_forms(), arena, 16)
}

/// VEX-encoded moves of xmm and ymm registers, in the two-byte encoding.
pub fn vex(arena: u64) -> impl Strategy<Value = Sample> {
    let opcodes = prop::sample::select(vec![
        (0u8, 0x10u8),
        (0, 0x11),
        (0, 0x28),
        (0, 0x29),
        (0, 0x2b),
        (1, 0x10),
        (1, 0x11),
        (1, 0x28),
        (1, 0x29),
        (1, 0x6f),
        (1, 0x7f),
        (2, 0x6f),
        (2, 0x7f),
        (1, 0xe7),
        (3, 0xf0),
    ]);
    (
        opcodes,
        place(arena, 32),
        0u8..16,
        any::<bool>(),
        any::<[u64; 16]>(),
    )
        .prop_map(|((pp, opcode), place, reg, wide, mut gpr)| {
            let place = Place {
                base: place.base & 7,
                index: None,
                ..place
            };
            let mut code = vec![
                0xc5,
                (!reg >> 3 & 1) << 7 | 0x78 | u8::from(wide) << 2 | pp,
                opcode,
            ];
            code.extend(place.encode(reg));
            place.aim(&mut gpr);
            Sample {
                code,
                gpr,
                rflags: 2,
            }
        })
}

/// String instructions with every prefix, both directions.
pub fn string(arena: u64) -> impl Strategy<Value = Sample> {
    let opcodes = prop::sample::select(vec![
        0xa4u8, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf,
    ]);
    let shape = (
        opcodes,
        prop::sample::select(vec![0u8, 0xf2, 0xf3]),
        any::<(bool, bool, bool)>(),
    );
    let pointers = (2048..6144u64, 2048..6144u64, 0u64..40);
    (shape, pointers, any::<[u64; 16]>(), any::<u64>()).prop_map(
        move |((opcode, repeat, (word, wide, down)), (from, to, count), mut gpr, flags)| {
            let mut code = Vec::new();
            code.extend([repeat].into_iter().filter(|&p| p != 0));
            code.extend(word.then_some(0x66));
            code.extend(wide.then_some(0x48));
            code.push(opcode);
            (gpr[6], gpr[7], gpr[1]) = (arena + from, arena + to, count);
            Sample {
                code,
                gpr,
                rflags: flags & 0x8d5 | 2 | u64::from(down) << 10,
            }
        },
    )
}
