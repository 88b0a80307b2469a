//! The tiles of each instruction set: separate functions, compiled with the instructions of their token and called through a
//! table. Every product shares them, which keeps the compiled code (and the time to compile it) small.

use super::micro::{Tile, tile};
use super::ops::{Fused, Pairs};
use crate::simd::{Integers, Isa};

/// Height of the tallest tile of any token.
pub(super) const MOST_ROWS: usize = 14;

/// A compiled tile.
pub(super) type TileFn = unsafe fn(&Tile);

/// Tiles by height (from 1).
type Heights = [TileFn; MOST_ROWS];

/// Tiles of one token: `[transposed][tail]`.
pub(super) struct Table([[Heights; 2]; 2]);

impl Table {
    /// The tile of `rows` rows.
    #[inline(always)]
    pub(super) fn get(&self, rows: usize, transposed: bool, tail: bool) -> TileFn {
        self.0[usize::from(transposed)][usize::from(tail)][rows - 1]
    }
}

/// The table of a token: `$function` is its tile with the token's instructions; heights beyond the token's repeat the
/// last one and are never asked for.
macro_rules! table {
    ($function:ident, $vectors:literal, $($rows:literal)*) => {
        Table([
            [[$($function::<$rows, $vectors, false, false>),*], [$($function::<$rows, 1, false, true>),*]],
            [[$($function::<$rows, $vectors, true, false>),*], [$($function::<$rows, 1, true, true>),*]],
        ])
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::ops::Dot;
    use super::{Fused, Pairs, Table, Tile, tile};
    use crate::simd::{Avx2, Avx512, Portable};

    /// Tiles of a token and a step, compiled with their instructions.
    macro_rules! tiles {
        ($function:ident, $token:ty, $op:ty, $features:literal) => {
            #[target_feature(enable = $features)]
            unsafe fn $function<const ROWS: usize, const VECTORS: usize, const TRANSPOSED: bool, const TAIL: bool>(
                t: &Tile,
            ) {
                // SAFETY: passed on to the caller, who has the token.
                unsafe { tile::<$token, $op, ROWS, VECTORS, TRANSPOSED, TAIL>(<$token>::new(), t) }
            }
        };
    }

    tiles!(avx512, Avx512, Fused, "avx512f,avx2,fma");
    tiles!(avx2, Avx2, Fused, "avx2,fma");
    tiles!(portable, Portable<true>, Fused, "avx,fma");
    tiles!(dot_wide, Avx512, Dot, "avx512f,avx2,fma");
    tiles!(pairs_wide, Avx512, Pairs, "avx512f,avx512bw,avx2,fma");
    tiles!(dot_narrow, Avx2, Dot, "avx2,fma");
    tiles!(pairs_narrow, Avx2, Pairs, "avx2,fma");

    pub(super) static AVX512: Table = table!(avx512, 2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    pub(super) static AVX2: Table = table!(avx2, 1, 1 2 3 4 5 6 6 6 6 6 6 6 6 6);
    pub(super) static PORTABLE: Table = table!(portable, 1, 1 2 3 4 4 4 4 4 4 4 4 4 4 4);
    pub(super) static DOT_WIDE: Table = table!(dot_wide, 2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    pub(super) static PAIRS_WIDE: Table = table!(pairs_wide, 2, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    pub(super) static DOT_NARROW: Table = table!(dot_narrow, 1, 1 2 3 4 5 6 6 6 6 6 6 6 6 6);
    pub(super) static PAIRS_NARROW: Table = table!(pairs_narrow, 1, 1 2 3 4 5 6 6 6 6 6 6 6 6 6);
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::super::ops::Op;
    use super::{Fused, Pairs, Table, Tile, tile};
    use crate::simd::Neon;

    #[target_feature(enable = "neon")]
    unsafe fn neon<O: Op<Neon>, const ROWS: usize, const TRANSPOSED: bool, const TAIL: bool>(t: &Tile) {
        // SAFETY: passed on to the caller, who has the token.
        unsafe { tile::<Neon, O, ROWS, 1, TRANSPOSED, TAIL>(Neon::new(), t) }
    }

    macro_rules! heights {
        ($op:ty, $($rows:literal)*) => {
            Table([
                [[$(neon::<$op, $rows, false, false>),*], [$(neon::<$op, $rows, false, true>),*]],
                [[$(neon::<$op, $rows, true, false>),*], [$(neon::<$op, $rows, true, true>),*]],
            ])
        };
    }

    pub(super) static NEON: Table = heights!(Fused, 1 2 3 4 5 6 6 6 6 6 6 6 6 6);
    pub(super) static PAIRS: Table = heights!(Pairs, 1 2 3 4 5 6 6 6 6 6 6 6 6 6);
}

/// Without vector instructions, or with those that every CPU of the architecture has.
macro_rules! soft_tiles {
    ($function:ident, $op:ty) => {
        unsafe fn $function<const ROWS: usize, const VECTORS: usize, const TRANSPOSED: bool, const TAIL: bool>(
            t: &Tile,
        ) {
            type Token = crate::simd::Portable<{ cfg!(target_arch = "aarch64") }>;
            // SAFETY: passed on to the caller.
            unsafe { tile::<Token, $op, ROWS, VECTORS, TRANSPOSED, TAIL>(Token::new(), t) }
        }
    };
}

soft_tiles!(soft, Fused);
soft_tiles!(soft_pairs, Pairs);

static SOFT: Table = table!(soft, 1, 1 2 3 4 4 4 4 4 4 4 4 4 4 4);
static SOFT_PAIRS: Table = table!(soft_pairs, 1, 1 2 3 4 4 4 4 4 4 4 4 4 4 4);

/// The tiles of an instruction set. The portable one's are chosen by whether the CPU has FMA, as in `dispatch`.
pub(super) fn tiles(isa: Isa) -> &'static Table {
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512 => return &x86::AVX512,
        Isa::Avx2 => return &x86::AVX2,
        Isa::Portable if crate::simd::hardware_fma() => return &x86::PORTABLE,
        _ => {}
    }
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon {
        return &arm::NEON;
    }
    let _ = isa;
    &SOFT
}

/// The tiles of 16-bit integers.
///
/// # Panics
/// If the CPU lacks their instructions, which `dispatch` does not know of.
pub(super) fn integer_tiles(integers: Integers) -> &'static Table {
    assert!(integers.is_available(), "this CPU has no {}", integers.name());
    #[cfg(target_arch = "x86_64")]
    match integers {
        Integers::Avx512Vnni => return &x86::DOT_WIDE,
        Integers::Avx512Bw => return &x86::PAIRS_WIDE,
        Integers::AvxVnni => return &x86::DOT_NARROW,
        Integers::Avx2 => return &x86::PAIRS_NARROW,
        Integers::Neon | Integers::Portable | Integers::PortableSoft => {}
    }
    #[cfg(target_arch = "aarch64")]
    if integers == Integers::Neon {
        return &arm::PAIRS;
    }
    let _ = integers;
    &SOFT_PAIRS
}
