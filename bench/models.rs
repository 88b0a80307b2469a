//! The models whose shapes are measured, and how a training step cuts them into calls of kernels.

/// A Llama-style model with the batch that it is trained on.
pub struct Model {
    pub name: &'static str,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub inner: usize,
    pub vocabulary: usize,
    pub positions: usize,
    pub batch: usize,
}

/// One row of [`MODELS`]: `heads` are query and key/value heads, `windows` the batch and the positions.
const fn model(
    name: &'static str,
    hidden: usize,
    [heads, kv_heads]: [usize; 2],
    inner: usize,
    vocabulary: usize,
    [batch, positions]: [usize; 2],
) -> Model {
    Model { name, hidden, heads, kv_heads, inner, vocabulary, positions, batch }
}

/// The presets of `python/symlm/config/presets.py`, and two models of the published benchmarks: a larger one, and one whose
/// sizes fit no tile.
pub const MODELS: [Model; 8] = [
    model("tiny", 128, [4, 4], 256, 512, [32, 128]),
    model("1m", 128, [4, 4], 384, 1024, [32, 128]),
    model("3m", 256, [8, 8], 512, 1024, [32, 128]),
    model("12m", 384, [6, 6], 1024, 4096, [32, 256]),
    model("30m", 512, [8, 4], 1536, 8192, [32, 512]),
    model("100m", 768, [12, 4], 2048, 32768, [8, 512]),
    model("29.5m", 512, [8, 8], 1376, 8192, [16, 256]),
    model("odd", 288, [6, 2], 768, 5003, [7, 97]),
];

/// Sectors of a batch.
const SECTORS: usize = 12;
/// Rows of logits at a time, as in `rust/core/src/step/plan/limits.rs`.
pub const LOGIT_ROWS: usize = 64;
/// Rows of an optimizer task, from there, too.
pub const ROW_BLOCK: usize = 64;
/// Rows of a weight-gradient tile for up to four workers, as in `rust/core/src/step/plan/tiles.rs`, and its most columns.
pub const TILE_ROWS: usize = 256;
pub const TILE_COLS: usize = 512;

impl Model {
    pub fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }
    /// Query heads of a key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
    /// Columns of the keys.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim()
    }
    /// Tokens of the largest sector.
    pub fn sector(&self) -> usize {
        self.batch.div_ceil(SECTORS) * self.positions
    }
    /// Name, outputs, inputs and rows of a call of each linear layer.
    pub fn matrices(&self) -> [(&'static str, usize, usize, usize); 5] {
        let (d, f, rows) = (self.hidden, self.inner, self.positions);
        [
            ("qkv", d + 2 * self.kv_size(), d, rows),
            ("out", d, d, rows),
            ("gate_up", 2 * f, d, rows),
            ("down", d, f, rows),
            ("head", self.vocabulary, d, LOGIT_ROWS),
        ]
    }
}

/// Distance between rows of activations: an odd number of cache lines, as in `rust/core/src/system/arena.rs`.
pub fn row_stride(cols: usize) -> usize {
    let lines = cols.div_ceil(16);
    (lines + 1 - lines % 2) * 16
}

/// Columns of a tile of a weight gradient with `cols` columns.
pub fn tile_cols(cols: usize) -> usize {
    cols.div_ceil(cols.div_ceil(TILE_COLS)).next_multiple_of(32)
}

/// Everything measured, each shape once with all its users.
pub struct Unique<T>(pub Vec<(T, String)>);

impl<T: PartialEq> Unique<T> {
    pub fn new() -> Self {
        Self(Vec::new())
    }
    pub fn add(&mut self, shape: T, user: String) {
        match self.0.iter_mut().find(|(known, _)| *known == shape) {
            Some((_, users)) => *users = format!("{users}, {user}"),
            None => self.0.push((shape, user)),
        }
    }
}
