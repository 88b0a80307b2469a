//! The tensors of a state, and where they lie.

use super::state::State;
use crate::model::Param;
use crate::system::arena::Arena;

/// Which tensors of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tensors {
    /// The weights that the model computes with.
    Weights,
    /// The gradient of the last batch, of what is trained: the weights, or the factors of adapters.
    Gradient,
    /// AdamW's first moment of what is trained.
    FirstMoment,
    /// AdamW's second moment.
    SecondMoment,
    /// The factors of the adapters; none where the weights are trained.
    Adapters,
    /// The weights that the adapters are added to, those without one included; none where the weights are trained.
    Base,
}

impl Tensors {
    /// What stands before a tensor's name in a file.
    pub fn prefix(self) -> &'static str {
        match self {
            Tensors::Weights | Tensors::Base => "",
            Tensors::Gradient => "gradient.",
            Tensors::FirstMoment => "first_moment.",
            Tensors::SecondMoment => "second_moment.",
            Tensors::Adapters => "base_model.model.",
        }
    }
}

impl State {
    /// The table of some tensors.
    pub(crate) fn table(&self, which: Tensors) -> &[Param] {
        match which {
            Tensors::Weights => &self.weights.layout.params,
            Tensors::Gradient | Tensors::FirstMoment | Tensors::SecondMoment => self.trained(),
            Tensors::Adapters => self.adapters.as_ref().map_or(&[], |adapters| &adapters.table.params),
            Tensors::Base => self.adapters.as_ref().map_or(&[], |_| &self.weights.layout.params),
        }
    }

    /// Where a tensor of the table lies.
    pub(crate) fn location(&self, which: Tensors, index: usize) -> (&Arena, usize) {
        let arena = match which {
            Tensors::Weights => &self.weights.values,
            Tensors::Gradient => self.trained_gradient(),
            Tensors::FirstMoment => &self.first_moment,
            Tensors::SecondMoment => &self.second_moment,
            Tensors::Adapters => self.trained_values(),
            Tensors::Base => {
                let adapters = self.adapters.as_ref();
                let adapted = adapters.and_then(|all| Some((&all.base, all.table.of_param(index)?.base)));
                return adapted.unwrap_or((&self.weights.values, self.weights.layout.params[index].offset));
            }
        };
        (arena, self.table(which)[index].offset)
    }
}
