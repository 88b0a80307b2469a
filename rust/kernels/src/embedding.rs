//! Embedding (contract L1, L6).
//!
//! ```text
//! gather:       out[i] = table[ids[i]]
//! scatter_row:  for four vectors of the row:  for t in tokens:  acc = acc + dx[t]
//! ```
//!
//! The gradient is gathered for each row of the table instead of scattered for each token: the order of the sum is then that
//! of the tokens whoever computes it, and a strip of the row stays in registers until it is done.

use crate::math::{load, store};
use crate::simd::{Isa, Kernel, LANES, Simd, dispatch};
use crate::{Mat, MatMut, vectors};

/// Copies row `ids[i]` of the table to row i of `out` (L1), out of place, exact.
///
/// Shapes: table vocabulary x n, ids rows, out rows x n.
///
/// # Panics
/// If the shapes do not match or an id is outside of the table.
pub fn gather(table: Mat<'_>, ids: &[u32], mut out: MatMut<'_>) {
    assert!(
        out.rows() == ids.len() && out.cols() == table.cols(),
        "{} ids of a table of {} columns into {} x {}",
        ids.len(),
        table.cols(),
        out.rows(),
        out.cols()
    );
    for (row, id) in ids.iter().enumerate() {
        out.row(row).copy_from_slice(table.row(*id as usize));
    }
}

/// Adds rows of dx to one vocabulary row's gradient, in the order of `tokens` (L6): `acc = acc + dx[token]`.
///
/// `tokens` are the rows of dx that hold the vocabulary row's id in one sector, ascending. Shapes: dx tokens x n,
/// acc n. Error at most `tokens.len() - 1` half-ulps of the sum of magnitudes.
///
/// # Panics
/// If the shapes do not match or a token is outside of dx.
pub fn scatter_row(isa: Isa, dx: Mat<'_>, tokens: &[u32], acc: &mut [f32]) {
    assert!(acc.len() == dx.cols(), "gradient row of {} from rows of {}", acc.len(), dx.cols());
    for t in tokens {
        assert!((*t as usize) < dx.rows(), "token {t} of {}", dx.rows());
    }
    dispatch(isa, ScatterRow { dx, tokens, acc });
}

struct ScatterRow<'a> {
    dx: Mat<'a>,
    tokens: &'a [u32],
    acc: &'a mut [f32],
}

impl Kernel for ScatterRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Vectors of the gradient that stay in registers while the tokens pass.
        const STRIP: usize = 4;
        let n = self.acc.len();
        let (dx, stride) = (self.dx.ptr(), self.dx.stride());
        let acc = self.acc.as_mut_ptr();
        let grouped = n / (STRIP * LANES) * (STRIP * LANES);
        let mut i = 0;
        while i < grouped {
            let mut sum = [s.zero(); STRIP];
            // SAFETY: i + STRIP * LANES <= n, and every token is a row of dx, which has n columns.
            unsafe {
                for (k, sum) in sum.iter_mut().enumerate() {
                    *sum = s.load(acc.add(i + k * LANES));
                }
                for t in self.tokens {
                    let row = dx.add(*t as usize * stride + i);
                    for (k, sum) in sum.iter_mut().enumerate() {
                        *sum = s.add(*sum, s.load(row.add(k * LANES)));
                    }
                }
                for (k, sum) in sum.into_iter().enumerate() {
                    s.store(acc.add(i + k * LANES), sum);
                }
            }
            i += STRIP * LANES;
        }
        vectors!(n - grouped, j, lanes, {
            // SAFETY: grouped + j + lanes <= n, and every token is a row of dx, which has n columns.
            unsafe {
                let p = acc.add(grouped + j);
                let mut sum = load(s, p, lanes);
                for t in self.tokens {
                    sum = s.add(sum, load(s, dx.add(*t as usize * stride + grouped + j), lanes));
                }
                store(s, p, sum, lanes);
            }
        });
    }
}
