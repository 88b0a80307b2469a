"""What crosses between Python and the extension module: typed settings and records."""

from __future__ import annotations

from typing import Any

import pytest

from symlm import TrainConfig, _symlm
from symlm.config.engine import engine_settings, made_from, model_shape, settings_of
from symlm.config.options import Spec, convert, limited, takes
from symlm.config.sampling import SAMPLING_SPECS
from symlm.config.sections import SPECS
from symlm.errors import InternalError, UsageError, UserError

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
    settings = engine_settings(TrainConfig(preset="tiny").with_model(), 2)
    whole: dict[str, Any] = {**made_from(settings), "threads": 2}
    assert settings_of(whole) == settings
    assert settings.model == model_shape(TrainConfig(preset="tiny").model)
    with pytest.raises(UsageError, match=r"^model: found 'colour', expected"):
        settings_of({**whole, "model": {**whole["model"], "colour": 1}})
    with pytest.raises(UsageError, match=r"^train: no seed"):
        settings_of({**whole, "train": {k: v for k, v in whole["train"].items() if k != "seed"}})


def test_records_are_equal_and_shown_by_their_fields() -> None:
    shape = _symlm.ModelShape(**SHAPE)
    assert shape == _symlm.ModelShape(**SHAPE) != _symlm.ModelShape(**{**SHAPE, "seq_len": 131})
    assert repr(shape).startswith("ModelShape(vocab_size=300, hidden_size=64,")
    assert repr(_symlm.parameter_table(shape)[0]) == "Parameter(name='model.embed_tokens.weight', shape=[300, 64])"


LIMITED = [(name, spec) for name, spec in (SPECS | SAMPLING_SPECS).items() if spec.core is not None]


@pytest.mark.parametrize(("name", "spec"), LIMITED, ids=[name for name, _ in LIMITED])
def test_limits_are_those_of_the_core(name: str, spec: Spec) -> None:
    """Python refuses what the core refuses, and takes the ends of a range as the core does."""
    core = _symlm.limits(name)
    assert spec.core == name
    whole = spec.kind in ("int", "auto_int")
    assert convert(name, spec, int(core.high) if whole else core.high) == core.high
    for wrong in (core.high + 1, -1, *([core.low] if core.above else [])):
        with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')}: expected "):
            convert(name, spec, int(wrong) if whole else wrong)
    # Not written down a second time, but for an end that means something else to the user.
    assert spec.high is spec.above is None
    assert spec.low is None or (name, spec.low) == ("lora_rank", 0)


def test_texts_name_the_limits_of_the_core() -> None:
    assert f"(1 to {_symlm.limits('sectors_in_flight').high:g})" in SPECS["sectors_in_flight"].help
    for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
        high = limited(SAMPLING_SPECS[name]).high
        assert high is not None and f"{high:,g}" in takes(SAMPLING_SPECS[name])


def test_a_setting_without_limits_in_the_core_is_a_defect() -> None:
    with pytest.raises(InternalError, match="the core has no limits of colour"):
        _symlm.limits("colour")
