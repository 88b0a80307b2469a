"""`--on-nan`: stop, skip, rollback; the bundle of an update whose numbers are not finite."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import planted
import symlm
from planted import fit, open_engine, plant, run_to
from symlm import _symlm
from symlm.layout import MANIFEST
from symlm.run.checkpoint import State, verify
from symlm.run.metrics import LineLog, read_lines
from symlm.system.files import file_hash
from symlm.training import bundle, nan_policy
from symlm.training.bundle import MOST_BUNDLES
from symlm.training.nan_policy import MOST_SKIPS, NEAR, WINDOWS, NanPolicy, computed, drop_undone, merged

END = 60


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_lines(run / "metrics.jsonl") if record["event"] == kind]


def final_hash(run: Path, step: int = END) -> str:
    return file_hash(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(_symlm, "fma_peak", lambda threads, seconds: 1.0)
    return tmp_path


@pytest.fixture
def often(folder: Path) -> Path:
    """A run at step 10, the rest of which meets the rare token in every epoch of some 12 updates."""
    planted.write_text(folder / "text.txt", 90, 40)
    fit(folder, "run", max_steps=END, stop_at_step=10)
    plant(folder / "run", 10)
    return folder


@pytest.fixture
def once(folder: Path) -> Path:
    """A run at step 10 that meets the rare token once up to its end, and not at once."""
    planted.write_text(folder / "text.txt", 420, 300)
    fit(folder, "run", max_steps=END, stop_at_step=10)
    plant(folder / "run", 10)
    return folder


def copy(folder: Path, name: str) -> str:
    shutil.copytree(folder / "run", folder / name)
    return name


def test_skip_goes_on_with_the_same_bits_on_any_way(often: Path) -> None:
    run = fit(often, copy(often, "skip"), resume="auto", on_nan="skip", threads=1)
    failed = [record["step"] for record in events(run.path, "nan")]
    assert len(failed) >= 3
    assert {record["action"] for record in events(run.path, "nan")} == {"skip"}
    assert {record["step"] for record in events(run.path, "train")} == set(range(1, END + 1)) - set(failed)
    assert all(record["loss"] == "inf" for record in events(run.path, "nan"))
    assert events(run.path, "end")[0]["tokens"] == (END - len(failed)) * 4 * 32
    # Other threads, and stops right before, at and after a skipped update.
    for stop in (failed[0] - 1, failed[0], failed[1] + 1):
        name = f"skip-{stop}"
        if not (often / name).exists():
            copy(often, name)
        fit(often, name, resume="auto", on_nan="skip", threads=3, stop_at_step=stop, sectors_in_flight=1)
        fit(often, name, resume="auto", on_nan="skip", threads=2)
        assert final_hash(often / name) == final_hash(run.path)


def test_stop_keeps_everything_and_a_resume_may_skip(often: Path) -> None:
    reference = fit(often, copy(often, "reference"), resume="auto", on_nan="skip")
    failed = events(reference.path, "nan")[0]["step"]
    with pytest.raises(symlm.NanError) as caught:
        fit(often, "run", resume="auto")
    run = often / "run"
    good = run / "checkpoints" / f"step-{(failed - 2) // 10 * 10:08d}"
    assert f"step {failed}: the loss is inf" in caught.value.message
    assert f"the last good checkpoint is {good}" in caught.value.message
    assert f"--step {failed}" in (caught.value.hint or "")
    verify(good)
    (record,) = events(run, "nan")
    assert (record["action"], record["bundle"]) == ("stop", f"nan/step-{failed:08d}")
    kept = run / record["bundle"]
    verify(kept)
    assert State.read(kept).step == failed - 1
    # The bundle is a checkpoint of the moment before: nothing is lost when the run resumes from it.
    fit(often, "run", resume=str(kept), out_dir=None, on_nan="skip", threads=3)
    assert final_hash(run) == final_hash(reference.path)


def test_the_bundle_tells_what_was_not_finite(often: Path) -> None:
    with pytest.raises(symlm.NanError):
        fit(often, "run", resume="auto")
    (kept,) = (often / "run" / "nan").iterdir()
    step = State.read(kept).step + 1
    assert {path.name for path in kept.iterdir()} == {
        "model.safetensors", "optimizer.safetensors", "trainer_state.json", "config.json", "config.toml", MANIFEST,
        "numbers.json", "batch.jsonl",
    }  # fmt: skip
    numbers = json.loads((kept / "numbers.json").read_text())
    assert (numbers["step"], numbers["loss"], numbers["threads"]) == (step, "inf", _symlm.available_cpus().count)
    windows = list(read_lines(kept / "batch.jsonl"))
    assert [window["window"] for window in windows] == [0, 1, 2, 3]
    bad = [window["window"] for window in windows if window["loss"] == "inf"]
    assert bad == numbers["windows"]
    assert len(bad) == 1
    tokenizer = _symlm.Tokenizer.from_file(str(often / "run" / "tokenizer.json"))
    for window in windows:
        assert len(window["ids"]) == 33
        assert tokenizer.decode(window["ids"]) == window["text"]
    assert planted.RARE in windows[bad[0]]["text"]
    tensors = {tensor["name"]: tensor for tensor in numbers["tensors"]}
    assert len(tensors) == 12
    assert all(tensor["bad_weights"] == tensor["bad_moments"] == 0 for tensor in tensors.values())


def test_a_bundle_that_cannot_be_written_is_a_warning(
    often: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_write_batch", full)
    with pytest.raises(symlm.NanError, match=r"the last good checkpoint is .*step-000000"):
        fit(often, "run", resume="auto", progress="plain")
    assert "no space left on device" in capfd.readouterr().err
    assert list((often / "run" / "nan").iterdir()) == []
    assert "bundle" not in events(often / "run", "nan")[0]


def test_many_failures_leave_few_bundles(often: Path) -> None:
    run = fit(often, "run", resume="auto", on_nan="skip")
    failed = [record["step"] for record in events(run.path, "nan")]
    kept = sorted(int(path.name.removeprefix("step-")) for path in (run.path / "nan").iterdir())
    assert len(failed) > MOST_BUNDLES
    assert kept == failed[-MOST_BUNDLES:]


def engine_with_left_out(folder: Path, run: Path, first: int, last: int) -> str:
    """Hash of the weights after the updates from the planted checkpoint on without those from `first` to `last`."""
    engine = open_engine(folder, run)
    start = run / "checkpoints" / "step-00000010"
    engine.load(str(start), State.read(start).engine_state(start))
    run_to(engine, first - 1)
    for _ in range(first, last + 1):
        engine.pass_over()
    run_to(engine, END)
    digest = engine.weights_sha256()
    engine.close()
    return digest


def test_rollback_leaves_out_what_led_there(once: Path) -> None:
    run = fit(once, copy(once, "back"), resume="auto", on_nan="rollback", threads=1)
    (failure,) = events(run.path, "nan")
    (rollback,) = events(run.path, "rollback")
    failed = failure["step"]
    first = failed - WINDOWS[0] + 1
    assert first > 11
    assert (failure["action"], rollback["failed_step"], rollback["rollbacks"]) == ("rollback", failed, 1)
    assert (rollback["left_out"], rollback["step"]) == ([[first, failed]], (first - 1) // 10 * 10)
    assert {record["step"] for record in events(run.path, "train")} == set(range(1, END + 1)) - set(
        range(first, failed + 1)
    )
    assert final_hash(run.path) == engine_with_left_out(once, once / "run", first, failed)
    assert State.read(run.path / "checkpoints" / f"step-{END:08d}").trainer["nan"]["left_out"] == [[first, failed]]
    # Stopped before the failure, after the way back, inside what is left out, and after it; on other threads.
    fit(once, "run", resume="auto", on_nan="rollback", stop_at_step=failed - 2, threads=2)
    stop_after_the_way_back(once, first)
    for stop in (failed - 3, failed + 2):
        fit(once, "run", resume="auto", on_nan="rollback", stop_at_step=stop, threads=3)
    fit(once, "run", resume="auto", on_nan="rollback", threads=2)
    assert final_hash(once / "run") == final_hash(run.path)
    assert len(events(once / "run", "rollback")) == 1


class Steps(symlm.Callback):
    """Notes every step; with `stop`, stops at the first that is not beyond the one before it."""

    def __init__(self, stop: bool = False) -> None:
        self.seen = [0]
        self.stop = stop

    def on_step(self, metrics: Mapping[str, Any]) -> symlm.Control | None:
        self.seen.append(metrics["step"])
        return symlm.Control.STOP if self.stop and self.seen[-1] <= self.seen[-2] else None


def stop_after_the_way_back(folder: Path, first: int) -> None:
    """Continue to the failure and stop right after the way back."""
    run = fit(folder, "run", [Steps(stop=True)], resume="auto", on_nan="rollback")
    assert run.step < first
    assert len(events(run.path, "rollback")) == 1
    # The checkpoints of updates that are left out now are gone.
    assert max(int(path.name[5:]) for path in (run.path / "checkpoints").iterdir()) == run.step


def test_rollback_without_a_checkpoint_begins_again(folder: Path) -> None:
    planted.write_text(folder / "text.txt", 90, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_symlm, "Engine", planted.failing_once(5))
        # Step by step, so that nothing was computed beyond the update that is said to have failed.
        steps = Steps()
        run = fit(folder, "run", [steps], max_steps=20, hash_interval=1, on_nan="rollback")
    assert steps.seen == [*range(5), *range(6, 21)]
    (rollback,) = events(run.path, "rollback")
    assert (rollback["step"], rollback["left_out"], rollback["checkpoint"]) == (0, [[1, 5]], None)
    assert [record["step"] for record in events(run.path, "train")] == list(range(6, 21))
    # The initial weights, and no trace of the updates that had been done.
    engine = open_engine(folder, run.path)
    hashes = [engine.weights_sha256()] * 5
    for step in range(6, 21):
        while engine.step < step - 1:
            engine.pass_over()
        run_to(engine, step)
        hashes.append(engine.weights_sha256())
    engine.close()
    assert [record["weights_sha256"] for record in events(run.path, "hash")] == hashes


def test_skipped_updates_push_out_no_good_checkpoint(often: Path) -> None:
    """Ten in a row, with a save due after each: the one that was good before them is still there."""
    fit(often, "run", resume="auto", on_nan="skip", stop_at_step=16, keep_last=2)
    run = often / "run"
    source = run / "checkpoints" / "step-00000016"
    raw = bytearray((source / "model.safetensors").read_bytes())
    length = int.from_bytes(raw[:8], "little")
    first, _ = json.loads(raw[8 : 8 + length])["model.norm.weight"]["data_offsets"]
    raw[8 + length + first : 8 + length + first + 4] = (0x7F7FFFFF).to_bytes(4, "little")
    planted.overwrite(source, bytes(raw))
    with pytest.raises(symlm.NanError, match=f"for {MOST_SKIPS} updates in a row"):
        fit(often, "run", resume="auto", on_nan="skip", save_interval=1, keep_last=2)
    assert len(events(run, "nan")) == MOST_SKIPS
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000016"]


def test_a_state_that_is_not_finite_is_never_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.write_text(folder / "text.txt", 90, 40)
    real = _symlm.Engine

    class Overflows:
        """An engine in which a weight becomes infinite at step 20, while all losses stay finite."""

        def __init__(self, *arguments: Any) -> None:
            self.engine = real(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

        def tensor_numbers(self) -> Any:
            rows = self.engine.tensor_numbers()
            bad = SimpleNamespace(name=rows[-1].name, bad_weights=1, bad_moments=0)
            return rows if self.engine.step < 20 else [*rows[:-1], bad]

    monkeypatch.setattr(_symlm, "Engine", Overflows)
    for on_nan in ("stop", "skip"):
        with pytest.raises(symlm.NanError, match=r"step 20: weights or moments of 1 tensor are not finite.*00000010"):
            fit(folder, on_nan, max_steps=40, on_nan=on_nan)
        assert [path.name for path in (folder / on_nan / "checkpoints").iterdir()] == ["step-00000010"]
        assert (folder / on_nan / "last").read_text() == "checkpoints/step-00000010\n"


@pytest.mark.parametrize("on_nan", ["skip", "rollback"])
def test_a_learning_rate_that_is_far_too_high_ends_the_run(folder: Path, on_nan: str) -> None:
    planted.write_text(folder / "text.txt", 90, 40)
    with pytest.raises(symlm.NanError) as caught:
        fit(folder, "run", max_steps=400, learning_rate=100.0, weight_decay=100.0, warmup_steps=0, grad_clip=0.0,
            on_nan=on_nan, schedule="constant")  # fmt: skip
    assert caught.value.exit_code == 5
    expected = {"skip": ("in a row", "skipping cannot help"), "rollback": ("rollbacks did not",)}[on_nan]
    assert any(text in caught.value.message for text in expected)
    assert len(events(folder / "run", "rollback")) == (len(WINDOWS) if on_nan == "rollback" else 0)
    assert all((path / MANIFEST).is_file() for path in (folder / "run" / "nan").iterdir())


# --- the policy by itself ---------------------------------------------------------------------------------------------

steps = st.integers(1, 400)
ranges = st.lists(st.tuples(steps, st.integers(0, 30)).map(lambda pair: (pair[0], pair[0] + pair[1])), max_size=6)


@given(ranges)
def test_merged_ranges_hold_the_same_steps(pairs: list[tuple[int, int]]) -> None:
    joined = merged(pairs)
    assert {step for a, b in joined for step in range(a, b + 1)} == {step for a, b in pairs for step in range(a, b + 1)}
    assert all(a[1] + 1 < b[0] for a, b in pairwise(joined))


@given(ranges, steps, steps)
def test_a_chunk_ends_before_what_is_left_out(pairs: list[tuple[int, int]], step: int, more: int) -> None:
    policy = NanPolicy("rollback", merged(pairs))
    if policy.leaves_out(step + 1):
        return
    end = policy.bound(step, step + more)
    assert step < end <= step + more
    assert not any(policy.leaves_out(at) for at in range(step + 1, end + 1))
    assert end == step + more or policy.leaves_out(end + 1)


@given(ranges, ranges, steps)
def test_a_state_is_known_by_what_it_left_out(
    left_out: list[tuple[int, int]], known: list[tuple[int, int]], step: int
) -> None:
    gone, before = NanPolicy(left_out=merged(left_out)), NanPolicy(left_out=merged(known))
    expected = any(gone.leaves_out(at) and not before.leaves_out(at) for at in range(1, step + 1))
    assert computed(gone.left_out, before.left_out, step) == expected


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(0, 11))
def test_a_stop_between_failures_changes_nothing(gaps: list[int], stop: int) -> None:
    """What is left out follows from the failures alone, also when the policy is stored and read between two."""

    def play(stop: int | None) -> list[tuple[int, int] | None]:
        policy, step, windows = NanPolicy("rollback"), 0, []
        for index, gap in enumerate(gaps):
            if index == stop:
                stored = json.loads(json.dumps({"nan": policy.to_json()}))
                policy = NanPolicy.restore("rollback", stored, Path("x"))
            step += gap
            window = policy.next_window(step)
            windows.append(window)
            if window is None:
                break
            assert window[1] == step
            policy.leave_out(window)
            assert policy.leaves_out(step)
        return windows

    assert play(stop) == play(None)


def test_rollbacks_widen_and_start_over_elsewhere() -> None:
    policy = NanPolicy("rollback")
    step = 1000
    for number, width in enumerate(WINDOWS, start=1):
        window = policy.next_window(step)
        assert window == (step - width + 1, step)
        policy.leave_out(window)
        assert policy.rollbacks == number
        step += NEAR
    assert policy.next_window(step) is None
    step += 1
    assert policy.next_window(step) == (step - WINDOWS[0] + 1, step)


def test_skips_in_a_row_are_counted_across_a_stop() -> None:
    policy = NanPolicy("skip")
    for _ in range(MOST_SKIPS - 1):
        assert policy.may_skip()
        policy = NanPolicy.restore("skip", {"nan": policy.to_json()}, Path("x"))
    assert not policy.may_skip()


@pytest.mark.parametrize(
    "stored",
    [
        3,
        [],
        {},
        {"left_out": 3},
        {"left_out": [[1]], "skips": 0, "failed": None},
        {"left_out": [], "skips": 0, "failed": 9, "rollbacks": -4},
    ],
)
def test_a_damaged_policy_is_an_error(stored: Any) -> None:
    with pytest.raises(symlm.DataError, match="damaged trainer state"):
        NanPolicy.restore("stop", {"nan": stored}, Path("checkpoint"))
    assert NanPolicy.restore("stop", {}, Path("checkpoint")) == NanPolicy("stop")


def test_a_rollback_that_a_checkpoint_does_not_know_is_dropped(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "metrics.jsonl")
    for left_out in ([[5, 12]], [[5, 12], [40, 47]]):
        log.write({"event": "rollback", "step": 4, "left_out": left_out})
    log.close()
    drop_undone(log.path, [(5, 20)])
    assert [record["left_out"] for record in read_lines(log.path)] == [[[5, 12]]]


def test_limits_fit_each_other() -> None:
    assert max(WINDOWS) <= NEAR < nan_policy.MOST_REPEATED
