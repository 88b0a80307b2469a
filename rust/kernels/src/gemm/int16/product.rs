//! `c = a b` over quantised rows and packed integers.

use super::{BLOCK_PAIRS, Quantised, pairs};
use crate::gemm::micro::Scales;
use crate::gemm::tables::integer_tiles;
use crate::gemm::{At, Gemm, Left, Packed, Results, Right, at, direct};
use crate::simd::{Integers, dispatch};
use crate::{Mat, MatMut};

/// `c = a b` (contract I5). `b` is packed pairs ([`super::packed_len`]), `columns` the scales of its columns where it has any. `a` has
/// one scale for each row, or one for each of its blocks of 512 columns.
///
/// # Panics
/// If the shapes do not fit, or the CPU lacks the instructions.
pub fn product(integers: Integers, a: Quantised<'_>, b: Packed<'_>, columns: Option<&[f32]>, mut c: MatMut<'_>) {
    run(integers, a, b, columns, At::NONE, &mut c);
}

/// `c = r + a b`, the sum after the product is complete (contract G4).
///
/// # Panics
/// If the shapes do not fit, or the CPU lacks the instructions.
pub fn product_add(
    integers: Integers,
    a: Quantised<'_>,
    b: Packed<'_>,
    columns: Option<&[f32]>,
    r: Mat<'_>,
    mut c: MatMut<'_>,
) {
    assert_eq!((r.rows(), r.cols()), (c.rows(), c.cols()), "residual shape");
    run(integers, a, b, columns, At { ptr: r.ptr().cast_mut(), stride: r.stride() }, &mut c);
}

fn run(integers: Integers, a: Quantised<'_>, b: Packed<'_>, columns: Option<&[f32]>, add: At, c: &mut MatMut<'_>) {
    let (k, blocks) = (pairs(a.cols()), pairs(a.cols()).div_ceil(BLOCK_PAIRS));
    assert_eq!(k, b.k(), "inner sizes in pairs");
    assert_eq!((a.rows(), b.n()), (c.rows(), c.cols()), "output shape");
    assert!(columns.is_none_or(|columns| columns.len() == b.n()), "scales of the columns");
    let (isa, tiles, rows) = (integers.isa(), integer_tiles(integers), Left::Rows(a.pairs().col_range(0..k)));
    if blocks == 0 {
        // A product over nothing is +0.
        return direct(isa, rows, Right::packed(b), At::NONE, add, c);
    }
    assert!(a.rows() == 0 || a.groups() == 1 || a.groups() == blocks, "{} scales for {blocks} blocks", a.groups());
    let column = columns.map_or(std::ptr::null(), <[f32]>::as_ptr);
    let c = at(c);
    for block in 0..blocks {
        let range = block * BLOCK_PAIRS..((block + 1) * BLOCK_PAIRS).min(k);
        let start = if block == 0 { At::NONE } else { c };
        let add = if range.end == k { add } else { At::NONE };
        let row = a.scales().as_ptr().wrapping_add(if a.groups() == 1 { 0 } else { block });
        let scales = Scales { row, row_stride: a.groups(), column };
        let (a, b) = (rows.k_range(range.clone()), Right::packed(b).k_range(range));
        dispatch(isa, Gemm { a, b, results: Results { start, add, c }, scales, tiles });
    }
}
