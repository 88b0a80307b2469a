//! The peer of the products: the `gemm` crate, one thread, the fastest instruction set it finds.
//!
//! It takes no packed operands: each call packs what it needs. That part is counted apart by running the crate's own
//! packing functions on the same operands, in the blocks and under the conditions of its `gemm_basic_generic`, in turns
//! with its whole call.

use gemm_common::cache::{KernelParams, kernel_params};
use gemm_common::pack_operands::{pack_lhs, pack_rhs};
use gemm_common::simd::{MixedSimd, Simd};
use gemm_common::{Parallelism, Ptr};
use symlm_kernels::Mat;

/// A product in the crate's terms. It stores columns, so it computes the transpose, as its own entry point would
/// arrange: its left operand is our right one. `_rs` is the step to the next row of an operand, `_cs` to the next column.
pub struct Call {
    m: usize,
    n: usize,
    k: usize,
    lhs: *const f32,
    lhs_rs: isize,
    lhs_cs: isize,
    rhs: *const f32,
    rhs_rs: isize,
    rhs_cs: isize,
}

/// Room for packed operands.
#[derive(Default)]
pub struct Room {
    lhs: Vec<f32>,
    rhs: Vec<f32>,
}

impl Call {
    /// `a` (m x k) times weights n x k, or the transpose of `a` (k x m) times k x n for a `gradient`; the rows of `b` lie
    /// `b_stride` apart.
    ///
    /// # Safety
    /// `b` holds these elements and stays where it is while the call is used, and so does `a`.
    pub unsafe fn new(a: Mat<'_>, gradient: bool, b: &[f32], b_stride: usize, n: usize) -> Self {
        let (a_stride, b_stride, rhs) = (a.stride() as isize, b_stride as isize, a.ptr());
        let (m, k) = if gradient { (a.cols(), a.rows()) } else { (a.rows(), a.cols()) };
        let (rhs_rs, rhs_cs) = if gradient { (a_stride, 1) } else { (1, a_stride) };
        let (lhs_rs, lhs_cs) = if gradient { (1, b_stride) } else { (b_stride, 1) };
        Self { m: n, n: m, k, lhs: b.as_ptr(), lhs_rs, lhs_cs, rhs, rhs_rs, rhs_cs }
    }

    /// The whole product.
    pub fn run(&self, c: &mut [f32]) {
        let Self { m, n, k, lhs, lhs_rs, lhs_cs, rhs, rhs_rs, rhs_cs } = *self;
        assert!(c.len() >= m * n);
        let (gemm, no) = (gemm_f32::gemm::f32::get_gemm_fn(), false);
        let (c, column) = (c.as_mut_ptr(), m as isize);
        // SAFETY: the operands hold their elements (`new`), the result m x n.
        unsafe {
            gemm(
                m,
                n,
                k,
                c,
                column,
                1,
                no,
                lhs,
                lhs_cs,
                lhs_rs,
                rhs,
                rhs_cs,
                rhs_rs,
                0.0,
                1.0,
                no,
                no,
                no,
                Parallelism::None,
            );
        }
    }

    /// What a call packs, and nothing else.
    #[cfg(target_arch = "x86_64")]
    pub fn pack(&self, room: &mut Room) {
        use gemm_common::simd::{V3, V4};
        // Lanes, height and width of its f32 tiles.
        if let Some(simd) = <V4 as MixedSimd<f32, f32, f32, f32>>::try_new() {
            self.pack_with::<_, 16, 64, 6>(simd, room);
        } else if let Some(simd) = <V3 as MixedSimd<f32, f32, f32, f32>>::try_new() {
            self.pack_with::<_, 8, 16, 6>(simd, room);
        }
    }

    /// Not known for its tiles of other machines: nothing is counted apart.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn pack(&self, _room: &mut Room) {}

    fn pack_with<S: Simd + Copy, const N: usize, const MR: usize, const NR: usize>(&self, simd: S, room: &mut Room) {
        let Self { m, n, k, lhs, lhs_rs, lhs_cs, rhs, rhs_rs, rhs_cs } = *self;
        assert!(m > 64 || n > 64, "small products have separate blocks");
        let KernelParams { kc, mc, nc } = kernel_params(m, n, k, MR, NR, size_of::<f32>());
        let nc = if nc > 0 { nc } else { 128 * NR };
        let rhs_threshold = if rhs_rs == 1 { gemm_common::gemm::get_rhs_packing_threshold() } else { 2 };
        let packs_rhs = m > rhs_threshold * MR;
        let lhs_threshold = gemm_common::gemm::get_lhs_packing_threshold_single_thread();
        let before = m <= 2 * mc && (m % N != 0 || lhs_rs != 1);
        let rows = if before { m } else { mc };
        room.lhs.resize(kc * rows.next_multiple_of(MR), 0.0);
        room.rhs.resize(kc * nc.next_multiple_of(NR), 0.0);
        let (packed_lhs, packed_rhs) = (Ptr(room.lhs.as_mut_ptr()), Ptr(room.rhs.as_mut_ptr()));
        let at = |p: *const f32, row: usize, rs: isize, column: usize, cs: isize| {
            Ptr(p.wrapping_offset(row as isize * rs + column as isize * cs).cast_mut())
        };
        for column in (0..n).step_by(nc) {
            let columns = nc.min(n - column);
            for depth in (0..k).step_by(kc) {
                let depths = kc.min(k - depth);
                if packs_rhs {
                    let from = at(rhs, depth, rhs_rs, column, rhs_cs);
                    // SAFETY: the operand holds these rows and columns, and the room so many packed ones.
                    unsafe {
                        pack_rhs::<f32, 1, NR, S>(simd, columns, depths, packed_rhs, from, rhs_cs, rhs_rs, kc * NR)
                    };
                }
                for row in (0..m).step_by(rows) {
                    let rows = rows.min(m - row);
                    if before || rows % N != 0 || lhs_rs != 1 || columns > lhs_threshold * NR {
                        let from = at(lhs, row, lhs_rs, depth, lhs_cs);
                        // SAFETY: as above.
                        unsafe {
                            pack_lhs::<f32, N, MR, S>(simd, rows, depths, packed_lhs, from, lhs_cs, lhs_rs, kc * MR)
                        };
                    }
                }
            }
        }
        std::hint::black_box(room);
    }
}
