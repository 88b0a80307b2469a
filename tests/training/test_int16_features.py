"""`--precision int16` with what a run has beside its updates: numbers that are not finite, an extension, a trace."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import planted
import symlm
from planted import Tensors, fit
from symlm import _symlm
from symlm.config.toml import parse_toml
from symlm.layout import CONFIG, METRICS, OPTIMIZER, WEIGHTS
from symlm.run.metrics import read_lines
from symlm.system.files import file_hash

PLANTED_AT = 10
LENGTH, LONGER = 30, 50


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    planted.write_text(tmp_path / "text.txt", 90, 40)
    return tmp_path


def hashes(run: Path, step: int) -> list[str]:
    return [file_hash(run / "checkpoints" / f"step-{step:08d}" / name) for name in (WEIGHTS, OPTIMIZER)]


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / METRICS) if record["event"] == kind]


# --- numbers that are not finite --------------------------------------------------------------------------------------


def infinite_head(run: Path) -> Callable[[Tensors], None]:
    """An infinite logit everywhere."""

    def edit(tensor: Tensors) -> None:
        tensor("lm_head.weight")[planted.rare_token(run), 3] = math.inf

    return edit


def infinite_projection(run: Path) -> Callable[[Tensors], None]:
    def edit(tensor: Tensors) -> None:
        tensor("model.layers.0.mlp.down_proj.weight")[5, 7] = -math.inf

    return edit


def infinite_row_of_the_embedding(run: Path) -> Callable[[Tensors], None]:
    """What the rare token stands for: its row is not finite from the first norm on, all others are."""

    def edit(tensor: Tensors) -> None:
        tensor("model.embed_tokens.weight")[planted.rare_token(run), 3] = math.inf

    return edit


def huge_logit(run: Path) -> Callable[[Tensors], None]:
    """Finite weights whose product is not, as `planted` says."""
    return planted.rare_logit(run)


@pytest.mark.parametrize("edit", [infinite_head, infinite_projection, infinite_row_of_the_embedding, huge_logit])
def test_a_weight_that_is_not_finite_ends_the_run_where_f32_ends(
    folder: Path, edit: Callable[[Path], Callable[[Tensors], None]]
) -> None:
    failed = {}
    for precision in ("f32", "int16"):
        run = fit(folder, precision, max_steps=60, stop_at_step=PLANTED_AT, precision=precision).path
        planted.change(run, PLANTED_AT, edit(run))
        with pytest.raises(symlm.NanError) as caught:
            fit(folder, precision, resume="auto", precision=precision)
        (record,) = events(run, "nan")
        assert f"step {record['step']}: " in caught.value.message
        failed[precision] = record["step"]
    assert failed["int16"] == failed["f32"] > PLANTED_AT


def test_skipped_updates_are_those_of_f32_and_bits_stay_the_same(folder: Path) -> None:
    skipped, ends = {}, set()
    for name, precision, threads in (("f32", "f32", 1), ("one", "int16", 1), ("three", "int16", 3)):
        run = fit(folder, name, max_steps=40, stop_at_step=PLANTED_AT, precision=precision).path
        planted.plant(run, PLANTED_AT)
        fit(folder, name, resume="auto", precision=precision, on_nan="skip", threads=threads)
        skipped[name] = [record["step"] for record in events(run, "nan")]
        ends.add(hashes(run, 40)[0])
    assert skipped["one"] == skipped["three"] == skipped["f32"]
    assert len(skipped["f32"]) >= 2
    assert len(ends) == 2


# --- a longer run, a trace --------------------------------------------------------------------------------------------


def test_an_extended_run_is_the_longer_run(folder: Path) -> None:
    run = fit(folder, "run", max_steps=LENGTH, precision="int16").path
    long = fit(folder, "long", max_steps=LONGER, precision="int16", warmup_steps=settings(run)["warmup_steps"]).path
    assert fit(folder, "run", extend_steps=LONGER - LENGTH, precision="int16", threads=3).step == LONGER
    assert settings(run)["precision"] == "int16"
    assert hashes(run, LONGER) == hashes(long, LONGER)


def settings(run: Path) -> dict[str, Any]:
    return parse_toml((run / CONFIG).read_text(encoding="utf-8")).values


def test_a_trace_has_the_tasks_of_integers_and_changes_no_bit(folder: Path) -> None:
    plain = fit(folder, "plain", max_steps=12, precision="int16", threads=1).path
    found = {}
    for precision in ("f32", "int16"):
        trace = folder / f"{precision}.json"
        run = fit(folder, precision, max_steps=12, precision=precision, trace=str(trace), threads=2).path
        found[precision] = json.loads(trace.read_text(encoding="utf-8"))
    assert hashes(run, 12) == hashes(plain, 12)
    named = {
        precision: {event["name"] for event in of["traceEvents"] if event["ph"] == "X"}
        for precision, of in found.items()
    }
    assert len(named["int16"]) > 5
    # The same plan: integers are made by the tasks that make the numbers.
    assert named["int16"] == named["f32"]
    assert _symlm.integer_instructions()
