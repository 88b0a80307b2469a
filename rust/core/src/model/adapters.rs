//! Low-rank adapters: which tensors have one, and the table of their factors (contract, "Low-rank adapters").

use super::layout::{ALIGN, Initial, Layout, Param};
use crate::config::LoraConfig;

/// The adapter of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// Position of the tensor in the table of parameters.
    pub param: usize,
    /// Position of the matrix that it is a part of.
    pub matrix: usize,
    /// First row in that matrix.
    pub row: usize,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// First element of A (rank x inputs) in the arenas of factors.
    pub a: usize,
    /// First element of B (outputs x rank).
    pub b: usize,
    /// First element of the tensor in the arena of base weights.
    pub base: usize,
}

/// All adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    /// Columns of B and rows of A.
    pub rank: usize,
    /// Factor of their product.
    pub scale: f32,
    /// The adapters, in the order of the table of parameters.
    pub list: Vec<Adapter>,
    /// The factors: A and B of each.
    pub params: Vec<Param>,
    /// Elements of an arena of factors, their gradients or moments (with alignment gaps).
    pub len: usize,
    /// Elements of the arena of base weights (with alignment gaps).
    pub base_len: usize,
    /// Elements of the tensors that have an adapter.
    pub adapted_len: usize,
}

impl Adapters {
    /// The adapters that a configuration asks for.
    pub fn new(layout: &Layout, c: &LoraConfig) -> Self {
        let mut all = Self {
            rank: c.rank,
            scale: c.scale(),
            list: Vec::new(),
            params: Vec::new(),
            len: 0,
            base_len: 0,
            adapted_len: 0,
        };
        for (param, p) in layout.params.iter().enumerate() {
            let Some(name) = p.name.strip_suffix(".weight") else { continue };
            let projection = name.rsplit('.').next().unwrap_or_default();
            if c.targets.iter().any(|target| target == projection) {
                all.add(layout, param, name);
            }
        }
        all.len = all.len.next_multiple_of(ALIGN);
        all
    }

    fn add(&mut self, layout: &Layout, param: usize, name: &str) {
        let p = &layout.params[param];
        let (rows, cols) = (p.shape[0], p.shape[1]);
        let inside = |m: &super::Matrix| (m.offset..m.offset + m.rows * m.cols).contains(&p.offset);
        let matrix = layout.matrices.iter().position(inside).expect("a projection is part of a matrix");
        let limit = 1.0 / libm::sqrt(cols as f64);
        let a = self.factor(format!("{name}.lora_A.weight"), [self.rank, cols], Initial::Uniform(limit));
        let b = self.factor(format!("{name}.lora_B.weight"), [rows, self.rank], Initial::Zeros);
        let row = (p.offset - layout.matrices[matrix].offset) / cols;
        self.list.push(Adapter { param, matrix, row, rows, cols, a, b, base: self.base_len });
        self.base_len = (self.base_len + p.len()).next_multiple_of(ALIGN);
        self.adapted_len += p.len();
    }

    fn factor(&mut self, name: String, shape: [usize; 2], initial: Initial) -> usize {
        let offset = self.len.next_multiple_of(ALIGN);
        self.len = offset + shape[0] * shape[1];
        self.params.push(Param { name, shape: shape.to_vec(), offset, initial });
        offset
    }

    /// The adapter of a tensor, if it has one.
    pub fn of_param(&self, param: usize) -> Option<&Adapter> {
        self.list.iter().find(|adapter| adapter.param == param)
    }

    /// The adapters of a matrix.
    pub fn of_matrix(&self, matrix: usize) -> impl Iterator<Item = &Adapter> {
        self.list.iter().filter(move |adapter| adapter.matrix == matrix)
    }

    /// Elements of all factors, gaps not counted.
    pub fn parameters(&self) -> usize {
        self.params.iter().map(Param::len).sum()
    }

    /// The tensor that a factor belongs to.
    pub fn param_of(&self, factor: usize) -> usize {
        self.list[factor / 2].param
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InitialWeights, ModelConfig};
    use crate::model::Random;

    fn model() -> ModelConfig {
        let model = r#"{"vocab_size": 30, "hidden_size": 24, "intermediate_size": 20, "num_layers": 2, "num_heads": 6,
            "num_kv_heads": 2, "seq_len": 8, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_embeddings": true}"#;
        serde_json::from_str(model).unwrap()
    }

    fn layout() -> Layout {
        Layout::new(&model())
    }

    #[test]
    fn adapters_know_their_place_in_the_matrix() {
        let targets = ["v_proj", "q_proj", "down_proj"].map(str::to_owned).to_vec();
        let layout = layout();
        let all = Adapters::new(&layout, &LoraConfig { rank: 3, alpha: 6.0, targets });
        let names: Vec<_> = all.params.iter().map(|p| (p.name.as_str(), p.shape.clone())).take(6).collect();
        let name = |part: &str, shape: [usize; 2]| (part.to_owned(), shape.to_vec());
        let expected = [
            name("model.layers.0.self_attn.q_proj.lora_A.weight", [3, 24]),
            name("model.layers.0.self_attn.q_proj.lora_B.weight", [24, 3]),
            name("model.layers.0.self_attn.v_proj.lora_A.weight", [3, 24]),
            name("model.layers.0.self_attn.v_proj.lora_B.weight", [8, 3]),
            name("model.layers.0.mlp.down_proj.lora_A.weight", [3, 20]),
            name("model.layers.0.mlp.down_proj.lora_B.weight", [24, 3]),
        ];
        assert_eq!(names, expected.each_ref().map(|(name, shape)| (name.as_str(), shape.clone())));
        assert_eq!((all.list.len(), all.params.len(), all.scale), (6, 12, 2.0));
        let v = &all.list[1];
        assert_eq!((v.row, v.rows, v.cols), (24 + 8, 8, 24));
        assert_eq!(all.of_matrix(v.matrix).count(), 2);
        assert_eq!(all.of_param(v.param), Some(v));
        assert_eq!(all.parameters(), 2 * 3 * (48 + 32 + 44));
    }

    #[test]
    fn the_first_factor_is_uniform_and_a_function_of_the_tensor_alone() {
        let layout = layout();
        let of = |targets: &[&str]| {
            let targets = targets.iter().map(|&t| t.to_owned()).collect();
            let all = Adapters::new(&layout, &LoraConfig { rank: 64, alpha: 1.0, targets });
            let factor = all.params.iter().position(|p| p.name.contains("1.self_attn.o_proj.lora_A")).unwrap();
            let mut values = vec![0.0; all.params[factor].len()];
            let random = Random::new(&model(), InitialWeights::Gpt2, 7);
            all.params[factor].initial.fill(&random, all.param_of(factor), 0, &mut values);
            values
        };
        let values = of(&["o_proj"]);
        assert_eq!(values, of(&["q_proj", "o_proj", "up_proj"]));
        let limit = (1.0 / libm::sqrt(24.0)) as f32;
        let largest = values.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!(largest <= limit && largest > 0.99 * limit && mean.abs() < 0.02 * limit, "{largest} {mean}");
    }
}
