"""What crosses between Python and the extension module: typed settings and records."""

from __future__ import annotations

from typing import Any

import pytest

from symlm import TrainConfig, _symlm
from symlm.config.engine import engine_config, engine_settings, model_shape
from symlm.config.sampling import SAMPLING_SPECS
from symlm.errors import UsageError, UserError

SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2,
    "seq_len": 130, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "tie_embeddings": True, "rope_scaling": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("vocab_size", "x" * 100, UsageError), ("hidden_size", True, UsageError), ("seq_len", -1, UsageError),
        ("rope_theta", "1", UsageError), ("tie_embeddings", 1, UsageError), ("rope_scaling", {}, UsageError),
        ("num_layers", 0, UserError), ("vocab_size", _symlm.MAX_VOCAB + 1, UserError),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}") as caught:
        _symlm.ModelShape(**{**SHAPE, name: value})
    assert len(str(caught.value)) < 200


def test_fields_that_are_missing_or_unknown_are_named() -> None:
    whole = engine_config(TrainConfig(preset="tiny").with_model(), 2)
    assert engine_settings(whole).model == model_shape(TrainConfig(preset="tiny").model)
    with pytest.raises(UsageError, match=r"^model: found 'colour', expected"):
        engine_settings({**whole, "model": {**whole["model"], "colour": 1}})
    with pytest.raises(UsageError, match=r"^train: no seed"):
        engine_settings({**whole, "train": {k: v for k, v in whole["train"].items() if k != "seed"}})


def test_records_are_equal_and_shown_by_their_fields() -> None:
    shape = _symlm.ModelShape(**SHAPE)
    assert shape == _symlm.ModelShape(**SHAPE) != _symlm.ModelShape(**{**SHAPE, "seq_len": 131})
    assert repr(shape).startswith("ModelShape(vocab_size=300, hidden_size=64,")
    assert repr(_symlm.parameter_table(shape)[0]) == "Parameter(name='model.embed_tokens.weight', shape=[300, 64])"


def test_limits_of_sampling_are_those_of_the_sampler() -> None:
    """`--help` shows them without loading the extension module, so they are written down twice."""
    spec = SAMPLING_SPECS["repetition_penalty"]
    assert (spec.low, spec.high) == (1 / _symlm.MAX_PENALTY, _symlm.MAX_PENALTY)
