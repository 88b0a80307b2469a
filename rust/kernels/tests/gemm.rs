//! Matrix products equal their chains bit for bit on every instruction set, in every form, whole and in parts.

mod common;

use common::{Buf, Lcg, OUTSIDE, assert_same, chains, isas};
use proptest::prelude::*;
use symlm_kernels::gemm::{
    Fold, Left, PANEL, Packed, Right, TOKEN_BLOCK, pack, packed_len, product, product_accumulate, product_add,
    product_continue, weight_gradient, weight_gradient_scratch,
};
use symlm_kernels::{Isa, Mat, MatMut};

/// The transpose, with its own margins.
fn transposed(rng: &mut Lcg, x: &Buf) -> Buf {
    let mut y = Buf::new(rng, x.cols, x.rows, false);
    for i in 0..x.rows {
        for j in 0..x.cols {
            y.row_mut(j)[i] = x.row(i)[j];
        }
    }
    y
}

/// `like` with `values` in its rows and the margins as they are.
fn with_rows(like: &Buf, values: &[f32]) -> Buf {
    let mut out = like.clone();
    for i in 0..like.rows {
        out.row_mut(i).copy_from_slice(&values[i * like.cols..(i + 1) * like.cols]);
    }
    out
}

fn rows_of(x: &Buf) -> Vec<f32> {
    (0..x.rows).flat_map(|i| x.row(i).to_vec()).collect()
}

/// `w` packed by the portable kernel, transposed, with a margin behind it.
fn packed_transpose(isa: Isa, w: &Buf) -> Vec<f32> {
    let mut out = vec![OUTSIDE; packed_len(w.cols, w.rows) + 3];
    pack::transposed(isa, w.view(), &mut out);
    out
}

/// The packed k x n matrix whose element (k, j) is `element(k, j)`, element by element, and its margin.
fn packed_by_definition(k: usize, n: usize, element: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let mut out = vec![0.0; packed_len(k, n)];
    for p in 0..k {
        for j in 0..n {
            out[j / PANEL * PANEL * k + p * PANEL + j % PANEL] = element(p, j);
        }
    }
    out.extend([OUTSIDE; 3]);
    out
}

/// Cuts of `0..n`: zero or more inner points, ascending.
fn cuts(rng: &mut Lcg, n: usize) -> Vec<std::ops::Range<usize>> {
    let mut points: Vec<usize> = (0..rng.below(4)).map(|_| rng.below(n + 1)).collect();
    points.extend([0, n]);
    points.sort_unstable();
    points.windows(2).map(|w| w[0]..w[1]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each left and right form with each way to store, on every instruction set.
    #[test]
    fn products(
        seed: u32,
        m in 0_usize..70,
        n in 0_usize..100,
        k in prop_oneof![8 => 0_usize..80, 1 => 1020_usize..1030, 1 => 2045_usize..2055],
        more in 1_usize..40,
        wild: bool,
    ) {
        let rng = &mut Lcg(seed);
        let (a, b) = (Buf::new(rng, m, k, wild), Buf::new(rng, k, n + more, wild));
        let (c, r) = (Buf::new(rng, m, n, wild), Buf::new(rng, m, n, wild));
        let (a_columns, w) = (transposed(rng, &a), transposed(rng, &b));
        let chain = chains::product(&a, &b, n);
        let add = |r: &Buf| -> Vec<f32> { rows_of(r).iter().zip(&chain).map(|(r, x)| r + x).collect() };
        let wants = [&chain, &add(&r), &add(&c), &chains::go_on(&rows_of(&c), &a, &b, n)].map(|v| with_rows(&c, v));
        if k == 0 {
            prop_assert!(chain.iter().all(|x| x.to_bits() == 0));
        }
        for isa in isas() {
            let panels = packed_transpose(isa, &w);
            let packed = Right::packed(Packed::new(&panels, k, n + more)).first_columns(n);
            let rows = Right::rows(b.view()).first_columns(n);
            for (left, left_name) in [(Left::Rows(a.view()), "rows"), (Left::Columns(a_columns.view()), "columns")] {
                for (right, right_name) in [(packed, "packed"), (rows, "rows")] {
                    for (store, want) in ["product", "add", "accumulate", "continue"].iter().zip(&wants) {
                        let mut got = c.clone();
                        match *store {
                            "product" => product(isa, left, right, got.view_mut()),
                            "add" => product_add(isa, left, right, r.view(), got.view_mut()),
                            "accumulate" => product_accumulate(isa, left, right, got.view_mut()),
                            _ => product_continue(isa, left, right, got.view_mut()),
                        }
                        assert_same(isa, &format!("{store}, {left_name} x {right_name}"), &got.data, &want.data);
                    }
                }
            }
        }
    }

    /// However rows and columns are shared out and k is cut, the bits are those of the whole.
    #[test]
    fn parts_make_the_whole(seed: u32, m in 0_usize..70, n in 0_usize..100, k in 0_usize..80, wild: bool) {
        let rng = &mut Lcg(seed);
        let (a, b, c) = (Buf::new(rng, m, k, wild), Buf::new(rng, k, n, wild), Buf::new(rng, m, n, wild));
        let a_columns = transposed(rng, &a);
        let want = with_rows(&c, &chains::product(&a, &b, n));
        let (row_cuts, column_cuts, k_cuts) = (cuts(rng, m), cuts(rng, n), cuts(rng, k));
        for isa in isas() {
            for by_columns in [false, true] {
                let left = |rows: std::ops::Range<usize>, k: std::ops::Range<usize>| match by_columns {
                    false => Left::Rows(a.view().row_range(rows).col_range(k)),
                    true => Left::Columns(a_columns.view().row_range(k).col_range(rows)),
                };
                let (mut by_parts, mut by_panels) = (c.clone(), c.clone());
                let mut k_first = true;
                for ks in &k_cuts {
                    let rows = b.view().row_range(ks.clone());
                    let mut panels = vec![OUTSIDE; packed_len(ks.len(), n)];
                    if n > 0 {
                        pack::rows(rows, &mut panels);
                    }
                    let panels = Right::packed(Packed::new(&panels, ks.len(), n));
                    let run = if k_first { product } else { product_continue };
                    for part in &row_cuts {
                        let left = left(part.clone(), ks.clone());
                        run(isa, left, panels, by_panels.view_mut().row_range(part.clone()));
                        for columns in &column_cuts {
                            let mut view = by_parts.view_mut();
                            let mut view = view.row_range(part.clone());
                            let right = Right::rows(rows.col_range(columns.clone()));
                            run(isa, left, right, view.col_range(columns.clone()));
                        }
                    }
                    k_first = false;
                }
                assert_same(isa, "parts", &by_parts.data, &want.data);
                assert_same(isa, "parts, packed", &by_panels.data, &want.data);
            }
        }
    }

    /// A view of some panels of a packed matrix is a packed matrix of those columns.
    #[test]
    fn panels_are_column_parts(seed: u32, m in 0_usize..40, n in 1_usize..130, k in 0_usize..50, first in 0_usize..4) {
        let rng = &mut Lcg(seed);
        let first = (first * PANEL).min((n - 1) / PANEL * PANEL);
        let (a, w) = (Buf::new(rng, m, k, false), Buf::new(rng, n, k, false));
        let want = chains::product(&a, &transposed(rng, &w), n);
        for isa in isas() {
            let panels = packed_transpose(isa, &w);
            let mut got = vec![OUTSIDE; m * n];
            for (from, to) in [(0, first), (first, n)] {
                let right = Right::packed(Packed::new(&panels[from * k..], k, to - from));
                product(isa, Left::Rows(a.view()), right, MatMut::new(&mut got, m, n, n).col_range(from..to));
            }
            assert_same(isa, "panels", &got, &want);
        }
    }

    #[test]
    fn weight_gradients(
        seed: u32,
        tokens in prop_oneof![Just(0_usize), 1_usize..400, 509_usize..516, 1020_usize..1030, 2045_usize..2055],
        outputs in prop_oneof![4 => 0_usize..40, 1 => 60_usize..150],
        inputs in 0_usize..40,
        wild: bool,
    ) {
        let rng = &mut Lcg(seed);
        let (dy, x) = (Buf::new(rng, tokens, outputs, wild), Buf::new(rng, tokens, inputs, wild));
        let dw = Buf::new(rng, outputs, inputs, wild);
        let sector = chains::weight_gradient(&dy, &x);
        let sum: Vec<f32> = rows_of(&dw).iter().zip(&sector).map(|(d, s)| d + s).collect();
        let mut scratch = vec![OUTSIDE; weight_gradient_scratch(tokens, outputs, inputs)];
        for isa in isas() {
            for (fold, want) in [(Fold::Set, &sector), (Fold::Add, &sum)] {
                let mut got = dw.clone();
                // What comes next is a hint: it changes nothing.
                let coming = (fold == Fold::Add).then(|| (dy.view(), x.view()));
                weight_gradient(isa, dy.view(), x.view(), got.view_mut(), fold, coming, &mut scratch);
                assert_same(isa, "dw", &got.data, &with_rows(&dw, want).data);
            }
            // A tile of dw is the product of some columns of dy and x.
            let (o, i) = (rng.below(outputs + 1), rng.below(inputs + 1));
            let mut got = dw.clone();
            for (rows, cols) in [(0..o, 0..i), (0..o, i..inputs), (o..outputs, 0..i), (o..outputs, i..inputs)] {
                let (dy, x) = (dy.view().col_range(rows.clone()), x.view().col_range(cols.clone()));
                let mut tile = got.view_mut();
                let mut tile = tile.row_range(rows);
                weight_gradient(isa, dy, x, tile.col_range(cols), Fold::Add, None, &mut scratch);
            }
            assert_same(isa, "tiles of dw", &got.data, &with_rows(&dw, &sum).data);
        }
    }

    #[test]
    fn packing(seed: u32, n in 1_usize..100, k in 0_usize..80, wild: bool) {
        let rng = &mut Lcg(seed);
        let (w, b) = (Buf::new(rng, n, k, wild), Buf::new(rng, k, n, wild));
        let want_transposed = packed_by_definition(k, n, |p, j| w.row(j)[p]);
        let want_rows = packed_by_definition(k, n, |p, j| b.row(p)[j]);
        for isa in isas() {
            assert_same(isa, "transposed", &packed_transpose(isa, &w), &want_transposed);
            let mut panels = vec![OUTSIDE; want_transposed.len()];
            for i in 0..n.div_ceil(PANEL) {
                let part = w.view().row_range(i * PANEL..n.min((i + 1) * PANEL));
                pack::transposed_panel(isa, part, &mut panels[i * PANEL * k..]);
            }
            assert_same(isa, "panel by panel", &panels, &want_transposed);
        }
        let mut rows = vec![OUTSIDE; want_rows.len()];
        pack::rows(b.view(), &mut rows);
        assert_same(Isa::Portable, "rows", &rows, &want_rows);
        rows[..packed_len(k, n)].fill(OUTSIDE);
        for part in cuts(rng, k).into_iter().rev() {
            // SAFETY: `rows` holds packed_len(k, n) elements and is borrowed for this call alone.
            unsafe { pack::rows_into(b.view().row_range(part.clone()), part.start, k, rows.as_mut_ptr()) };
        }
        assert_same(Isa::Portable, "rows in parts", &rows, &want_rows);
    }
}

/// Beyond one cache block of A, which the small cases above never leave: many rows, long chains.
#[test]
fn large_products() {
    let rng = &mut Lcg(11);
    for (m, n, k) in [(700, 33, 300), (29, 40, 9000), (2, 1, 120_000)] {
        let (a, b, c) = (Buf::new(rng, m, k, false), Buf::new(rng, k, n, false), Buf::new(rng, m, n, false));
        let a_columns = transposed(rng, &a);
        let want = with_rows(&c, &chains::product(&a, &b, n));
        let mut panels = vec![OUTSIDE; packed_len(k, n)];
        pack::rows(b.view(), &mut panels);
        for isa in isas().into_iter().filter(|isa| *isa != Isa::PortableSoft) {
            for left in [Left::Rows(a.view()), Left::Columns(a_columns.view())] {
                for right in [Right::rows(b.view()), Right::packed(Packed::new(&panels, k, n))] {
                    let mut got = c.clone();
                    product(isa, left, right, got.view_mut());
                    assert_same(isa, &format!("{m} x {n} x {k}"), &got.data, &want.data);
                }
            }
        }
    }
}

fn message(f: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(f).expect_err("wrong shapes were accepted");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_string())).unwrap_or_default()
}

#[test]
fn wrong_shapes_are_refused() {
    const X: [f32; 64] = [0.5; 64];
    const P: Isa = Isa::Portable;
    fn mat(rows: usize, cols: usize) -> Mat<'static> {
        Mat::new(&X, rows, cols, cols)
    }
    fn inner(rows: usize, right: usize) {
        product(P, Left::Rows(mat(rows, 3)), Right::rows(mat(right, 4)), MatMut::new(&mut [0.0; 8], 2, 4, 4));
    }
    let cases: [(&str, &dyn Fn()); 13] = [
        ("inner sizes 3 and 5", &|| inner(2, 5)),
        ("output shape", &|| inner(1, 3)),
        ("output shape", &|| {
            product_accumulate(
                P,
                Left::Columns(mat(3, 2)),
                Right::rows(mat(3, 5)),
                MatMut::new(&mut [0.0; 8], 2, 4, 4),
            );
        }),
        ("output shape", &|| {
            product_continue(P, Left::Columns(mat(3, 1)), Right::rows(mat(3, 4)), MatMut::new(&mut [0.0; 8], 2, 4, 4));
        }),
        ("residual shape", &|| {
            let (a, b) = (Left::Rows(mat(2, 3)), Right::rows(mat(3, 4)));
            product_add(P, a, b, mat(1, 4), MatMut::new(&mut [0.0; 8], 2, 4, 4));
        }),
        ("5 columns of 4", &|| _ = Right::rows(mat(3, 4)).first_columns(5)),
        ("packed 3 x 4 in 64 elements", &|| _ = Packed::new(&X, 3, 4)),
        ("packed 3 x 4 in 95 elements", &|| pack::transposed(P, mat(4, 3), &mut [0.0; 95])),
        ("panel of 33 x 1", &|| pack::transposed_panel(P, mat(33, 1), &mut [0.0; 64])),
        ("packed matrix in 95 elements", &|| pack::rows(mat(3, 4), &mut [0.0; 95])),
        // SAFETY: refused before anything is written.
        ("rows 2+2 of 3", &|| unsafe { pack::rows_into(mat(2, 4), 2, 3, [0.0; 96].as_mut_ptr()) }),
        ("tokens of dy and x", &|| {
            weight_gradient(P, mat(2, 2), mat(3, 2), MatMut::new(&mut [0.0; 4], 2, 2, 2), Fold::Set, None, &mut []);
        }),
        ("outputs x inputs", &|| {
            weight_gradient(P, mat(2, 2), mat(2, 3), MatMut::new(&mut [0.0; 4], 2, 2, 2), Fold::Set, None, &mut []);
        }),
    ];
    for (want, f) in cases {
        let text = message(std::panic::AssertUnwindSafe(f));
        assert!(text.contains(want), "{want:?} is not in {text:?}");
    }
}

#[test]
#[should_panic(expected = "elements")]
fn a_short_workspace_is_refused() {
    let x = vec![0.5; 2 * (TOKEN_BLOCK + 1)];
    let x = Mat::new(&x, TOKEN_BLOCK + 1, 2, 2);
    weight_gradient(Isa::Portable, x, x, MatMut::new(&mut [0.0; 4], 2, 2, 2), Fold::Set, None, &mut [0.0; 3]);
}
