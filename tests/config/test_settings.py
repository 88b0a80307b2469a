"""The tables of settings, and what is made from them: attributes, types, files of older versions, documents."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import pickle
from pathlib import Path
from typing import Any, assert_type, get_type_hints

import pytest

import symlm
from console import ROOT
from symlm.cli import generate as generate_command
from symlm.cli import reference
from symlm.config.options import Spec, convert, specs
from symlm.config.sampling import SAMPLING_SPECS, Sampling, SamplingSettings
from symlm.config.sections import HOMES, INVOCATION_FIELDS, SECTIONS, SPECS, OptimizerSettings
from symlm.config.sources import Request, gather, to_toml
from symlm.config.toml import parse_toml, read_toml
from symlm.config.train_config import TrainConfig
from symlm.errors import UsageError, UserError
from symlm.run.folder import RunFolder
from symlm.training.session import Session

RECORDED = ROOT / "tests" / "golden" / "settings.json"
"""Version -> the settings that it brought."""
FIRST = "0.1"


# --- sections -------------------------------------------------------------------------------------------------------


def test_every_setting_can_be_read_flat_and_from_its_section() -> None:
    names = [name for section in SECTIONS.values() for name in specs(section)]
    assert len(names) == len(set(names)) and not set(names) & set(SECTIONS)
    assert [field.name for field in dataclasses.fields(TrainConfig)] == list(SECTIONS)
    config = TrainConfig(beta1=0.5, data=("a.txt",), init_from="m", lora_rank=4, progress="off")
    for name, section in HOMES.items():
        assert getattr(config, name) == getattr(getattr(config, section), name)
    assert config.values() == {name: getattr(config, name) for name in SPECS}
    assert (config.optimizer.beta1, config.corpus.data, config.display.progress) == (0.5, ("a.txt",), "off")
    assert config.lora_target_names == config.adapters.lora_target_names != ()
    assert list(inspect.signature(TrainConfig).parameters) == list(SPECS)


def test_types_are_known() -> None:
    """Checked by mypy; one setting of each section."""
    config = TrainConfig(batch_size=3, threads="auto")
    assert_type(config.data, tuple[str, ...])
    assert_type(config.hidden_size, int | None)
    assert_type(config.max_time, float | None)
    assert_type(config.batch_size, int)
    assert_type(config.beta1, float)
    assert_type(config.lora_rank, int)
    assert_type(config.keep_last, int)
    assert_type(config.trace, str | None)
    assert_type(config.optimizer.beta1, float)
    assert_type(config.save_every_steps, int)


def test_sections_are_arguments_too() -> None:
    optimizer = OptimizerSettings(beta1=0.5)
    config = TrainConfig(optimizer=optimizer, beta2=0.6, seed=3)
    assert (config.beta1, config.beta2, config.seed) == (0.5, 0.6, 3)
    assert dataclasses.replace(config, beta1=0.7).optimizer == dataclasses.replace(config.optimizer, beta1=0.7)
    assert TrainConfig(**vars(config)) == TrainConfig(**config.values()) == config
    assert {copy.deepcopy(config), pickle.loads(pickle.dumps(config))} == {config}
    assert dataclasses.replace(config, optimizer=OptimizerSettings()) == TrainConfig()
    with pytest.raises(UsageError, match="--beta1: expected at most"):
        OptimizerSettings(beta1=1.0)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"no setting 'lerning_rate', did you mean learning_rate\?"):
        TrainConfig(lerning_rate=1.0)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"optimizer: expected OptimizerSettings, found .*beta1"):
        TrainConfig(optimizer={"beta1": 0.5})  # type: ignore[arg-type]


# --- files of older versions ----------------------------------------------------------------------------------------


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if clipping had come in a later version, before which nothing was clipped."""
    monkeypatch.setitem(SPECS, "grad_clip", dataclasses.replace(SPECS["grad_clip"], since="9.0", before=0.0))


def without(text: str, name: str) -> str:
    """A TOML file as a version without this setting wrote it."""
    kept = [line for line in text.splitlines(keepends=True) if not line.startswith(f"{name} = ")]
    assert len(kept) == len(text.splitlines()) - 1
    return "".join(kept)


@pytest.mark.usefixtures("late")
def test_a_key_that_the_file_of_a_run_lacks_is_what_that_version_did(tmp_path: Path) -> None:
    config = TrainConfig(preset="tiny", max_steps=100)
    old = tmp_path / "config.toml"
    old.write_text(without(to_toml(config, {}), "grad_clip"))
    assert read_toml(str(old)).values["grad_clip"] == 0.0
    assert TrainConfig.from_file(str(old)).grad_clip == 0.0
    assert gather({}, {}, str(old)).config().grad_clip == 0.0
    assert gather({"grad_clip": "3"}, {}, str(old)).config().grad_clip == 3.0
    # What is recorded counts, and so does the default for a file that a person wrote.
    assert parse_toml(to_toml(dataclasses.replace(config, grad_clip=2.0), {})).values["grad_clip"] == 2.0
    assert "grad_clip" not in parse_toml(without(to_toml(config), "grad_clip")).values
    assert TrainConfig().grad_clip == 1.0


@pytest.mark.usefixtures("late")
def test_an_older_run_is_resumed_as_it_was(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    config = TrainConfig(preset="tiny", max_steps=100, warmup_steps=5, decay_start=80).with_model()
    folder.start(config, {"max_steps": 100}, {})
    file = folder.path / "config.toml"
    file.write_text(without(file.read_text(), "grad_clip"))
    resume = TrainConfig(out_dir=str(folder.path), resume="auto")
    assert Session.open(Request(resume, frozenset({"out_dir", "resume"})), dry=True).config.grad_clip == 0.0
    (folder.path / "best").mkdir()  # Something was saved: now its settings bind.
    with pytest.raises(UserError, match=r"--grad-clip: the run has 0\.0, asked for 1\.0"):
        Session.open(Request(resume, frozenset({"out_dir", "resume", "grad_clip"})), dry=True)


def test_settings_that_came_later_say_what_was_before() -> None:
    """Of every released version, the settings are recorded; a new one has `since`, and `before` unless it is None."""
    recorded = json.loads(RECORDED.read_text())
    known = {name: version for version, names in recorded.items() for name in names}
    assert set(known) <= set(SPECS), "a setting has gone: files of older runs have its key"
    for name, spec in SPECS.items():
        assert name in known, f"add {name} to {RECORDED.name} under the version that brings it"
        brought = None if known[name] == FIRST else known[name]
        assert spec.since == brought, f"{name}: Spec(since=..) is the version that brought it"
        if spec.since is not None and spec.default is not None and name not in INVOCATION_FIELDS:
            assert spec.before is not None, f"{name}: Spec(before=..) is what runs without it did"
        if spec.before is not None:
            # Only so can a file be told that lacks it from one in which it is None.
            assert spec.default is not None and name not in INVOCATION_FIELDS
            convert(name, spec, spec.before)


# --- sampling -------------------------------------------------------------------------------------------------------


def test_sampling_is_one_table() -> None:
    fields = {field.name for field in dataclasses.fields(Sampling)}
    assert get_type_hints(Sampling) == get_type_hints(SamplingSettings)
    assert set(SAMPLING_SPECS) == fields
    flags = {parameter.name for parameter in generate_command.command.params}
    assert {name for name, spec in SAMPLING_SPECS.items() if not spec.hidden} <= flags


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": float("nan")}, "--temperature: expected a finite number"),
        ({"temperature": -1}, "--temperature: expected at least 0"),
        ({"top_p": 0}, "--top-p: expected a number above 0"),
        ({"top_p": 1.1}, "--top-p: expected at most 1"),
        ({"top_k": 1.5}, "--top-k: expected a whole number"),
        ({"max_new_tokens": True}, "--max-new-tokens: expected a whole number"),
        ({"repetition_penalty": 0}, "--repetition-penalty: expected at least 0.01"),
        ({"seed": 2**63}, "--seed: expected at most"),
        ({"sample_index": -1}, "sample_index: expected at least 0"),
    ],
)
def test_bad_sampling_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(**settings)
    assert caught.value.message.startswith(message)
    assert caught.value.hint


# --- documents ------------------------------------------------------------------------------------------------------


def test_the_table_of_settings_is_up_to_date() -> None:
    written = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert written == reference.reference(), "python -m symlm.cli.reference > docs/settings.md"


def test_the_table_of_settings_follows_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec("tokens | in <a> --seed", "int", low=1, high=10_000, since="9.0", aliases=("--nt",), default=7)
    monkeypatch.setitem(SAMPLING_SPECS, "new_thing", spec)
    row = "| `--new-thing`, `--nt` | `new_thing` | a whole number from 1 to 10,000 | 7 | tokens \\| in &lt;a> `--seed`"
    assert f"{row} (since 9.0) |\n" in reference.reference()


def test_the_public_class_is_this_one() -> None:
    assert symlm.TrainConfig is TrainConfig
