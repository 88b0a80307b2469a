//! From f32 to integers: rows of activations, gradients and weights.

use super::LIMIT;
use crate::gemm::pack::{self, PANEL};
use crate::math::load;
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use crate::{Mat, MatMut, vectors};

/// Pairs of `n` integers.
pub fn pairs(n: usize) -> usize {
    n.div_ceil(2)
}

/// Pairs that a row of `n` integers takes: whole vectors of integers, those beyond n are 0.
pub fn row_pairs(n: usize) -> usize {
    n.next_multiple_of(LANES) / 2
}

/// Elements of a packed k x n matrix of integers.
pub fn packed_len(k: usize, n: usize) -> usize {
    pack::packed_len(pairs(k), n)
}

/// Rows of integers and the scales of their groups.
#[derive(Clone, Copy)]
pub struct Quantised<'a> {
    pairs: Mat<'a>,
    cols: usize,
    scales: &'a [f32],
    groups: usize,
}

/// As [`Quantised`], to be written.
pub struct QuantisedMut<'a> {
    pairs: MatMut<'a>,
    cols: usize,
    scales: &'a mut [f32],
    groups: usize,
}

impl<'a> Quantised<'a> {
    /// Rows of `cols` integers as [`row_pairs`] pairs; `scales` has as many for each row as this has groups.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn new(pairs: Mat<'a>, cols: usize, scales: &'a [f32]) -> Self {
        let groups = check(pairs.rows(), pairs.cols(), cols, scales.len());
        Self { pairs, cols, scales, groups }
    }
    /// Rows.
    pub fn rows(&self) -> usize {
        self.pairs.rows()
    }
    /// Integers of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// The integers, two in the place of an f32.
    pub fn pairs(&self) -> Mat<'a> {
        self.pairs
    }
    /// Scales row by row.
    pub fn scales(&self) -> &'a [f32] {
        self.scales
    }
    /// Scales of a row.
    pub fn groups(&self) -> usize {
        self.groups
    }
    /// The columns of `range`, which starts at a multiple of 16.
    ///
    /// # Panics
    /// If it does not, or ends beyond the last one.
    pub fn col_range(&self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start.is_multiple_of(LANES) && range.end <= self.cols, "integers {range:?} of {}", self.cols);
        let first = range.start / 2;
        Self { pairs: self.pairs.col_range(first..first + row_pairs(range.len())), cols: range.len(), ..*self }
    }
    /// Integer `i` of row `t`, for tests.
    pub fn integer(&self, t: usize, i: usize) -> i16 {
        (self.pairs.row(t)[i / 2].to_bits() >> (16 * (i % 2))) as i16
    }
}

impl<'a> QuantisedMut<'a> {
    /// As [`Quantised::new`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn new(pairs: MatMut<'a>, cols: usize, scales: &'a mut [f32]) -> Self {
        let groups = check(pairs.rows(), pairs.cols(), cols, scales.len());
        Self { pairs, cols, scales, groups }
    }
    fn into_view(self) -> Quantised<'a> {
        Quantised { pairs: self.pairs.into_mat(), cols: self.cols, scales: self.scales, groups: self.groups }
    }
}

/// Scales of a row.
fn check(rows: usize, row: usize, cols: usize, scales: usize) -> usize {
    assert!(row == row_pairs(cols), "{cols} integers in {row} pairs");
    assert!(scales == 0 || scales.is_multiple_of(rows.max(1)), "{scales} scales for {rows} rows");
    scales / rows.max(1)
}

/// Scale and its inverse of a group whose largest magnitude has these bits (contract I2).
#[inline(always)]
pub(super) fn scale_of(largest: u32) -> (f32, f32) {
    // 2^-100: the inverse is a normal number, and whatever is so small vanishes.
    let exponent = (largest >> 23).max(27);
    if exponent == 255 {
        return (f32::NAN, 0.0);
    }
    (f32::from_bits((exponent - 10) << 23), f32::from_bits((264 - exponent) << 23))
}

/// Integers of a vector (contract I3). A NaN becomes the least one: its scale says what it is.
#[inline(always)]
pub(super) fn integers<S: Simd>(s: S, x: S::F, inverse: S::F) -> S::F {
    let limit = LIMIT as f32;
    s.to_ints(s.min(s.max(s.mul(x, inverse), s.splat(-limit)), s.splat(limit)))
}

/// Quantises the rows of `x`, each times `factors` where these are given (contract I1 to I3). A group is a part of a row of
/// `group` columns, or the whole row.
///
/// # Panics
/// If the shapes do not fit, or a group is not a multiple of 16.
pub fn quantise_rows<'a>(
    isa: Isa,
    x: Mat<'_>,
    factors: Option<&[f32]>,
    group: Option<usize>,
    mut to: QuantisedMut<'a>,
) -> Quantised<'a> {
    let group = group.unwrap_or(x.cols()).max(1);
    assert_eq!((x.rows(), x.cols()), (to.pairs.rows(), to.cols), "shape of the integers");
    assert!(group >= x.cols() || group.is_multiple_of(LANES), "a group of {group}");
    assert_eq!(to.scales.len(), x.rows() * groups(x.cols(), group), "scales of the integers");
    match factors {
        Some(factors) => {
            assert_eq!(factors.len(), x.cols(), "factors of the columns");
            dispatch(isa, Rows::<true> { x, factors, group, to: &mut to });
        }
        None => dispatch(isa, Rows::<false> { x, factors: &[], group, to: &mut to }),
    }
    to.into_view()
}

/// Groups of a row; an empty row is one.
fn groups(cols: usize, group: usize) -> usize {
    cols.div_ceil(group).max(1)
}

struct Rows<'a, 'b, const FACTORS: bool> {
    x: Mat<'a>,
    factors: &'a [f32],
    group: usize,
    to: &'a mut QuantisedMut<'b>,
}

impl<const FACTORS: bool> Kernel for Rows<'_, '_, FACTORS> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (n, groups) = (self.x.cols(), groups(self.x.cols(), self.group));
        for row in 0..self.x.rows() {
            let x = self.x.row(row).as_ptr();
            let to = self.to.pairs.row(row).as_mut_ptr().cast::<i16>();
            for number in 0..groups {
                let first = number * self.group;
                let count = self.group.min(n - first);
                // SAFETY: columns `first..first + count` of a row and of the factors.
                let (x, factors) = unsafe { (x.add(first), self.factors.as_ptr().wrapping_add(first)) };
                macro_rules! element {
                    ($i:expr, $lanes:expr) => {{
                        let x = load(s, x.add($i), $lanes);
                        if FACTORS { s.mul(x, load(s, factors.add($i), $lanes)) } else { x }
                    }};
                }
                let mut top = s.zero();
                vectors!(count, i, lanes, {
                    // SAFETY: as above.
                    top = s.max_bits(top, unsafe { element!(i, lanes) });
                });
                let mut largest = 0;
                for lane in s.to_array(top) {
                    largest = lane.to_bits().max(largest);
                }
                let (scale, inverse) = scale_of(largest);
                self.to.scales[row * groups + number] = scale;
                let inverse = s.splat(inverse);
                vectors!(count, i, lanes, {
                    // SAFETY: as above; a row of integers has room for whole vectors, whose lanes beyond the last one are 0.
                    unsafe { s.store_i16(to.add(first + i), integers(s, element!(i, lanes), inverse)) };
                });
            }
        }
    }
}

/// Quantises rows `first..` of a matrix of `rows` rows of weights and packs them as right-hand matrices: `forward` for
/// products over its columns, `backward` for those over its rows. `scales` are those of the rows at hand.
///
/// Workspace: [`row_pairs`] of its columns for each row of `w`.
///
/// # Safety
/// The panels are valid for writes of [`packed_len`] elements, and nobody else touches those of these rows: in `forward`
/// whole panels of 32 rows, in `backward` their pairs.
///
/// # Panics
/// If the rows do not fit, or `first` is not a multiple of 32.
pub unsafe fn pack_weights(
    isa: Isa,
    w: Mat<'_>,
    first: usize,
    rows: usize,
    scales: &mut [f32],
    [forward, backward]: [*mut f32; 2],
    scratch: &mut [f32],
) {
    let (count, cols) = (w.rows(), w.cols());
    assert!(first.is_multiple_of(PANEL) && first + count <= rows, "rows {first}+{count} of {rows}");
    let stride = row_pairs(cols);
    let to = QuantisedMut::new(MatMut::new(scratch, count, stride, stride), cols, scales);
    let integers = quantise_rows(isa, w, None, None, to).pairs();
    let k = pairs(cols);
    for start in (0..count).step_by(PANEL) {
        let some = integers.row_range(start..count.min(start + PANEL)).col_range(0..k);
        // SAFETY: the panel of these rows, by the caller's guarantee.
        let panel = unsafe { std::slice::from_raw_parts_mut(forward.add((first + start) * k), PANEL * k) };
        pack::transposed_panel(isa, some, panel);
    }
    dispatch(isa, ByRows { integers, cols, first: first / 2, k: pairs(rows), to: backward });
}

/// Packs rows of integers as pairs over the rows.
struct ByRows<'a> {
    integers: Mat<'a>,
    cols: usize,
    first: usize,
    k: usize,
    to: *mut f32,
}

impl Kernel for ByRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for pair in 0..self.integers.rows().div_ceil(2) {
            for column in (0..self.cols).step_by(LANES) {
                let x = pair_of_rows(s, self.integers, 2 * pair, column);
                let panel = column / PANEL * self.k + self.first + pair;
                // SAFETY: sixteen of the 32 columns of a row of a panel, by the guarantee of `pack_weights`.
                unsafe { s.store(self.to.add(panel * PANEL + column % PANEL), x) };
            }
            if self.cols.div_ceil(LANES) % 2 == 1 {
                let panel = self.cols / PANEL * self.k + self.first + pair;
                // SAFETY: as above, the columns beyond the last one.
                unsafe { s.store(self.to.add(panel * PANEL + LANES), s.zero()) };
            }
        }
    }
}

/// Sixteen columns of two rows of integers as pairs; a row beyond the last one is 0.
#[inline(always)]
pub(super) fn pair_of_rows<S: Simd>(s: S, integers: Mat<'_>, row: usize, column: usize) -> S::F {
    debug_assert!(row < integers.rows() && column + LANES <= 2 * integers.cols());
    let low = integers.ptr().wrapping_add(row * integers.stride()).cast::<i16>().wrapping_add(column);
    let high = low.wrapping_add(2 * integers.stride());
    // SAFETY: rows hold whole vectors of integers.
    unsafe {
        let high = if row + 1 < integers.rows() { s.load_i16(high) } else { s.zero() };
        s.pairs(s.load_i16(low), high)
    }
}
