//! Tiles of the weight gradients: what one task folds. Any tiles give the same bits.

use super::limits::{SQUARE_BLOCKS, TILE_COLS};
use crate::contract::SQUARE_BLOCK;
use crate::model::{Adapter, Adapters, Layout, Matrix};
use std::ops::Range;

/// Rows and columns of a weight-gradient tile.
pub(crate) type Tile = (Range<usize>, Range<usize>);

/// Rows of a weight-gradient tile. High tiles read each sector's inputs less often; many workers need more tiles.
pub(crate) fn tile_height(threads: usize) -> usize {
    if threads <= 4 { 256 } else { 64 }
}

/// Tiles of a matrix's weight gradient.
fn tiles(rows: usize, cols: usize, threads: usize) -> Vec<Tile> {
    let height = tile_height(threads);
    let parts = cols.div_ceil(TILE_COLS);
    let width = cols.div_ceil(parts).next_multiple_of(32);
    let mut out = Vec::new();
    for r in (0..rows).step_by(height) {
        for c in (0..cols).step_by(width) {
            out.push((r..(r + height).min(rows), c..(c + width).min(cols)));
        }
    }
    out
}

/// Tiles of the weight gradients of every matrix: of all of it, or of its adapted tensors where adapters are trained.
pub(crate) fn gradient_tiles(layout: &Layout, adapters: Option<&Adapters>, threads: usize) -> Vec<Vec<Tile>> {
    let of = |(index, m): (usize, &Matrix)| match adapters {
        None => tiles(m.rows, m.cols, threads),
        Some(adapters) => {
            let own = |a: &Adapter| {
                let tiles = tiles(a.rows, a.cols, threads).into_iter();
                tiles.map(|(r, c)| (a.row + r.start..a.row + r.end, c)).collect::<Vec<_>>()
            };
            adapters.of_matrix(index).flat_map(own).collect()
        }
    };
    layout.matrices.iter().enumerate().map(of).collect()
}

/// Tiles of the gradient of A: ranges of its columns.
pub(crate) fn a_tiles(adapter: &Adapter) -> usize {
    adapter.cols.div_ceil(TILE_COLS)
}

/// Part `index` of `limit` elements, `size` at a time.
pub(crate) fn block(index: usize, size: usize, limit: usize) -> Range<usize> {
    index * size..((index + 1) * size).min(limit)
}

/// Blocks that a [`Task::Squares`] handles.
pub(crate) fn square_blocks(len: usize, block: usize) -> Range<usize> {
    block..(block + SQUARE_BLOCKS).min(len.div_ceil(SQUARE_BLOCK))
}
