//! The peak of products of 16-bit integers: independent sums, nothing else (see [`crate::peak`]).

use crate::simd::Integers;

/// Runs `rounds` of a loop of multiply-adds in registers; a value that depends on all of it, and the operations done. Nothing
/// for the specification, which has no instruction.
pub fn integer_loop(integers: Integers, rounds: u64) -> Option<(i32, u64)> {
    if !integers.is_available() {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instructions are there.
    unsafe {
        match integers {
            Integers::Avx512Vnni => return Some(x86::dot_wide(rounds)),
            Integers::Avx512Bw => return Some(x86::pairs_wide(rounds)),
            Integers::AvxVnni => return Some(x86::dot_narrow(rounds)),
            Integers::Avx2 => return Some(x86::pairs_narrow(rounds)),
            Integers::Neon | Integers::Portable | Integers::PortableSoft => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if integers == Integers::Neon {
        return Some(arm::lengthen(rounds));
    }
    let _ = rounds;
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! By name, so that the compiler neither computes anything once for all rounds nor joins chains.
    //!
    //! Safety argument of every block: the caller has the instructions, and a vector is as large as the array it is made from.
    #![allow(clippy::undocumented_unsafe_blocks)]

    use std::arch::asm;
    use std::arch::x86_64::{__m256i, __m512i};

    /// More than latency x ports of every known core, no more than registers.
    const CHAINS: usize = 12;

    macro_rules! peak {
        ($name:ident, $vector:ty, $lanes:literal, $class:ident, $features:literal, $code:literal) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(rounds: u64) -> (i32, u64) {
                unsafe {
                    let mut acc: [$vector; CHAINS] = std::mem::transmute([[0_i32; $lanes]; CHAINS]);
                    let x: $vector = std::mem::transmute([0x0003_0001_i32; $lanes]);
                    for _ in 0..rounds {
                        for acc in &mut acc {
                            asm!($code, acc = inout($class) *acc, t = out($class) _, x = in($class) x,
                                options(pure, nomem, nostack, preserves_flags));
                        }
                    }
                    let lanes: [[i32; $lanes]; CHAINS] = std::mem::transmute(acc);
                    let sum = lanes.iter().flatten().fold(0_i32, |sum, x| sum.wrapping_add(*x));
                    (sum, rounds * (CHAINS * $lanes * 4) as u64)
                }
            }
        };
    }

    peak!(dot_wide, __m512i, 16, zmm_reg, "avx512f", "vpdpwssd {acc}, {x}, {x} /* {t} */");
    peak!(pairs_wide, __m512i, 16, zmm_reg, "avx512f", "vpmaddwd {t}, {x}, {x}\nvpaddd {acc}, {acc}, {t}");
    peak!(dot_narrow, __m256i, 8, ymm_reg, "avx2", "{{vex}} vpdpwssd {acc}, {x}, {x} /* {t} */");
    peak!(pairs_narrow, __m256i, 8, ymm_reg, "avx2", "vpmaddwd {t}, {x}, {x}\nvpaddd {acc}, {acc}, {t}");
}

#[cfg(target_arch = "aarch64")]
mod arm {
    //! By name, as for x86-64.

    use std::arch::aarch64::int32x4_t;
    use std::arch::asm;

    /// More than latency x ports of every known core, no more than registers.
    const CHAINS: usize = 24;

    pub(super) fn lengthen(rounds: u64) -> (i32, u64) {
        // SAFETY: every CPU of the architecture has the instruction, and a vector is as large as the array it is made from.
        unsafe {
            let mut acc: [int32x4_t; CHAINS] = std::mem::transmute([[0_i32; 4]; CHAINS]);
            let x: int32x4_t = std::mem::transmute([0x0003_0001_i32; 4]);
            for _ in 0..rounds {
                for acc in &mut acc {
                    asm!("smlal {acc:v}.4s, {x:v}.4h, {x:v}.4h", acc = inout(vreg) *acc, x = in(vreg) x,
                        options(pure, nomem, nostack, preserves_flags));
                }
            }
            let lanes: [[i32; 4]; CHAINS] = std::mem::transmute(acc);
            let sum = lanes.iter().flatten().fold(0_i32, |sum, x| sum.wrapping_add(*x));
            (sum, rounds * (CHAINS * 4 * 2) as u64)
        }
    }
}
