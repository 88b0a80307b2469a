"""Checkpoints of version 1 of the contract: they load while every rule that their settings use is unchanged."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blanks
import symlm
from console import ROOT
from elsewhere import END, llama3_tokenizer, make_model
from symlm import _symlm
from symlm.check.replay import replay
from symlm.check.verify import verify
from symlm.errors import DataError, UserError
from symlm.export.write import export
from symlm.layout import MANIFEST, STATE, WEIGHTS
from symlm.system.files import file_hash
from symlm.training.contract_changes import CHANGES

STEPS, STOP = 8, 4
LAST = Path("checkpoints") / f"step-{STEPS:08d}"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


def train(folder: Path, name: str, data: Path, **changes: Any) -> Path:
    """A run of a few updates; gives its folder."""
    values: dict[str, Any] = {
        "preset": "tiny", "num_layers": 1, "hidden_size": 32, "num_heads": 2, "num_kv_heads": 1,
        "intermediate_size": 48, "vocab_size": 262, "seq_len": 24, "batch_size": 4, "max_steps": STEPS,
        "eval_interval": 4, "sample_every": 0, "save_interval": STOP, "log_interval": 1, "val_split": 0.2,
        "progress": "off", "threads": 1, "out_dir": str(folder / name),
    }  # fmt: skip
    if "init_from" in changes:
        shape = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size", "vocab_size")
        values = {key: value for key, value in values.items() if key not in shape}
    config = symlm.TrainConfig(**{**values, **changes})
    return symlm.Trainer(config, data=[data]).fit().path


def write_text(path: Path) -> Path:
    path.write_text("the cat sat on the mat\n\nand the dog sat by it\n" * 80, encoding="utf-8")
    return path


def write_examples(path: Path, prompt: str, completion: str) -> Path:
    lines = (json.dumps({"prompt": f"{i} {prompt}", "completion": completion}) for i in range(60))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def rewrite_state(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the state of every checkpoint, and its hash in the manifest; a linked file is rewritten."""
    for folder in [*(run / "checkpoints").iterdir(), run / "best"]:
        if not (folder / STATE).is_file():
            continue
        state = json.loads((folder / STATE).read_text())
        change(state)
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, content in ((STATE, state), (MANIFEST, manifest)):
            (folder / name).unlink()
            (folder / name).write_text(json.dumps(content))
            if name == STATE:
                size = (folder / name).stat().st_size
                manifest["files"][STATE] = {"size": size, "sha256": file_hash(folder / name)}


def as_version(run: Path, version: int, train_sha256: str | None = None) -> None:
    """What an older symlm would have left: the version, and the hash of the ids that it made."""

    def change(state: dict[str, Any]) -> None:
        state["engine"]["contract"] = version
        if train_sha256 is not None:
            state["trainer"]["data"]["train_sha256"] = train_sha256

    rewrite_state(run, change)
    path = run / "environment.json"
    environment = json.loads(path.read_text())
    assert environment["contract"] == _symlm.CONTRACT_VERSION
    del environment["contract"]
    if train_sha256 is not None:
        environment["data"]["train_sha256"] = train_sha256
    path.write_text(json.dumps(environment))


def resume(folder: Path, run: str, data: Path, **changes: Any) -> Path:
    """Resume a run as it was started."""
    return train(folder, run, data, resume="auto", **changes)


def test_a_run_of_plain_text_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    data = write_text(tmp_path / "a.txt")
    straight = train(tmp_path, "straight", data)
    stopped = train(tmp_path, "stopped", data, stop_at_step=STOP)
    as_version(stopped, 1)
    resumed = resume(tmp_path, "stopped", data)
    assert file_hash(resumed / LAST / WEIGHTS) == file_hash(straight / LAST / WEIGHTS)
    assert json.loads((resumed / LAST / STATE).read_text())["engine"]["contract"] == _symlm.CONTRACT_VERSION
    as_version(straight, 1)
    assert verify(straight, steps=3, start="start", threads=1, progress="off").difference is None
    assert replay(straight, STOP + 1, threads=1, progress="off").difference is None


def test_examples_whose_ids_are_the_same_go_on(tmp_path: Path) -> None:
    """The completion begins with a blank, where a word begins anyway: version 1 had these ids too."""
    data = write_examples(tmp_path / "a.jsonl", "the cat sat on", " the mat")
    run = train(tmp_path, "run", data, stop_at_step=STOP)
    as_version(run, 1)
    assert (resume(tmp_path, "run", data) / LAST).is_dir()


def test_examples_whose_ids_are_others_are_refused(tmp_path: Path) -> None:
    data = write_examples(tmp_path / "a.jsonl", "the cat sat on ", "the mat")
    run = train(tmp_path, "run", data, stop_at_step=STOP)
    as_version(run, 1, "1" * 64)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for work in (
        lambda: resume(tmp_path, "run", data),
        lambda: verify(run, steps=2, threads=1, progress="off"),
        lambda: replay(run, STOP, threads=1, progress="off"),
    ):
        with pytest.raises(DataError, match="rule T8 changed with version 2 of the numeric contract") as caught:
            work()
        assert "under version 1" in caught.value.message and "--init-from" in (caught.value.hint or "")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    # Of this version it is the text that has changed.
    rewrite_state(run, lambda state: state["engine"].update(contract=2))
    with pytest.raises(UserError, match="the text is not the one"):
        resume(tmp_path, "run", data)


def test_a_text_of_a_tokenizer_that_puts_a_blank(tmp_path: Path) -> None:
    """Where a text was cut, version 1 put one there. A tokenizer without blanks is not concerned."""
    data = write_text(tmp_path / "a.txt")
    blanks.write("prepend", tmp_path / "blanks")
    for name, tokenizer, error in (
        ("prepend", json.loads((tmp_path / "blanks" / "tokenizer.json").read_text()), DataError),
        ("llama3", llama3_tokenizer(), UserError),
    ):
        made = make_model(tmp_path / f"model-{name}", tokenizer=tokenizer, vocab_size=400)
        run = train(tmp_path, name, data, init_from=str(made.folder), stop_at_step=STOP)
        as_version(run, 1)
        shutil.copytree(run, tmp_path / f"{name}-same")
        assert (resume(tmp_path, f"{name}-same", data, init_from=str(made.folder)) / LAST).is_dir()
        as_changed = "rule T12 changed" if error is DataError else "the text is not the one"
        rewrite_state(run, lambda state: state["trainer"]["data"].update(train_sha256="1" * 64))
        with pytest.raises(error, match=as_changed):
            resume(tmp_path, name, data, init_from=str(made.folder))


def test_without_a_known_hash_a_changed_rule_is_enough(tmp_path: Path) -> None:
    data = write_examples(tmp_path / "a.jsonl", "the cat sat on", " the mat")
    run = train(tmp_path, "run", data, stop_at_step=STOP)
    as_version(run, 1)
    (run / "environment.json").unlink()
    rewrite_state(run, lambda state: state["trainer"].pop("data"))
    with pytest.raises(DataError, match="rule T8"):
        resume(tmp_path, "run", data)


@pytest.mark.parametrize("version", [0, 3, "1", None, True, 1.0])
def test_a_version_that_is_not_known_is_refused(tmp_path: Path, version: Any) -> None:
    data = write_text(tmp_path / "a.txt")
    run = train(tmp_path, "run", data, stop_at_step=STOP)
    rewrite_state(run, lambda state: state["engine"].update(contract=version))
    with pytest.raises(DataError, match=r"numeric contract .*, expected at most 2"):
        resume(tmp_path, "run", data)


def test_weights_are_weights_under_any_version(tmp_path: Path) -> None:
    data = write_text(tmp_path / "a.txt")
    run = train(tmp_path, "run", data)
    known = symlm.evaluate(run, data, checkpoint="last", threads=1, progress="off")
    text = symlm.Generator.from_pretrained(run, "last").generate("the", max_new_tokens=5)
    for version in (1, 99):
        rewrite_state(run, lambda state, version=version: state["engine"].update(contract=version))  # type: ignore[misc]
        found = symlm.evaluate(run, data, checkpoint="last", threads=1, progress="off")
        assert found == known and math.isfinite(found.loss)
        assert symlm.Generator.from_pretrained(run, "last").generate("the", max_new_tokens=5) == text
        out = tmp_path / f"out-{version}"
        export(run, "hf", out, checkpoint="last")
        assert file_hash(out / "model.safetensors") == file_hash(run / LAST / WEIGHTS)
        assert (train(tmp_path, f"tuned-{version}", data, init_from=str(run), stop_at_step=1)).is_dir()


def test_the_table_goes_up_to_the_version(tmp_path: Path) -> None:
    versions = [change.version for change in CHANGES]
    assert versions == sorted(versions) and versions[-1] == _symlm.CONTRACT_VERSION
    contract = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    assert contract.startswith(f"# The numeric contract, version {_symlm.CONTRACT_VERSION}\n")
    for change in CHANGES:
        assert f"| {change.version} | {change.rule}" in contract
        assert dataclasses.asdict(change)["what"]


def test_ids_that_have_not_changed_are_found_in_the_cache(tmp_path: Path) -> None:
    """The names of these files are those that version 1 gave them; of examples and after blanks they are others."""
    corpus = _symlm.Corpus.open([str(write_text(tmp_path / "a.txt"))])
    (tmp_path / "llama3.json").write_text(json.dumps(llama3_tokenizer()))
    for tokenizer, name in (
        (corpus.train_tokenizer(262, 1, None), "3e25b6dca19a132289935e7e67904add-train.ids"),
        (_symlm.Tokenizer.of_model(f"{tmp_path}/llama3.json", END, None), "6fb58f95010387fadf4835d35de757e5-train.ids"),
    ):
        assert not tokenizer.marks_beginning
        assert Path(corpus.prepare(tokenizer, str(tmp_path), 0.0, 24, 1, None).train.path).name == name
