"""A training run that meets numbers which are not finite at known updates, while its weights stay finite.

In an untied model one column of the embedding is made large, so that the final norm gives it a large positive value at
every position, and the head's row of one rare token is -3e38 there: its logit is minus infinity everywhere, its
probability 0, and the loss infinite exactly where it is the target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import symlm
from symlm import _symlm
from symlm.config.engine import engine_settings
from symlm.layout import MANIFEST, WEIGHTS
from symlm.system.files import file_hash

RARE = "Ж"
SETTINGS: dict[str, Any] = {
    "preset": "tiny", "vocab_size": 300, "seq_len": 32, "batch_size": 4, "tie_embeddings": False, "num_layers": 1,
    "hidden_size": 32, "intermediate_size": 48, "val_split": 0.0, "eval_interval": 0, "sample_every": 0,
    "initial_weights": "gpt2", "save_interval": 10, "keep_last": 10, "log_interval": 1, "hash_interval": 10,
    "progress": "off",
}  # fmt: skip


def write_text(path: Path, lines: int, rare_line: int) -> None:
    """A text in which the rare character stands once."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "sleeps", "near", "rivers"]
    made = [" ".join(words[(i * k + k) % len(words)] for k in range(1, 12)) + "." for i in range(lines)]
    made[rare_line] += f" {RARE}"
    path.write_text("\n".join(made), encoding="utf-8")


def fit(folder: Path, name: str, callbacks: Sequence[symlm.Callback] = (), **changes: Any) -> symlm.Run:
    """Train on the text of the folder into a run called `name`, or resume it."""
    values = {**SETTINGS, "out_dir": str(folder / name), **changes}
    return symlm.Trainer(symlm.TrainConfig(**values), [folder / "text.txt"], callbacks).fit()


def open_engine(folder: Path, run: Path) -> _symlm.Engine:
    """An engine for the updates of a run, at its beginning."""
    config = symlm.TrainConfig.from_file(str(run / "config.toml"))
    tokenizer = _symlm.Tokenizer.from_file(str(run / "tokenizer.json"))
    corpus = _symlm.Corpus.open([str(folder / "text.txt")])
    shards = corpus.prepare(tokenizer, str(folder / "cache"), 0.0, SETTINGS["seq_len"], 1, None).train
    return _symlm.Engine(engine_settings(config, 2), shards)


def run_to(engine: _symlm.Engine, step: int) -> None:
    """Updates up to `step`."""
    engine.run_until(step)
    while engine.step < step:
        engine.poll(0.1)


def failing_once(step: int) -> type:
    """An engine whose update `step` is not finite for the first time that it is computed."""
    failed = {"yet": False}
    real = _symlm.Engine

    class FailsOnce:
        def __init__(self, *arguments: Any) -> None:
            self.engine = real(*arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.engine, name)

        def poll(self, timeout_s: float) -> Any:
            report = self.engine.poll(timeout_s)
            if report is None or report.step != step or failed["yet"]:
                return report
            failed["yet"] = True
            names = ("step", "lr", "tokens", "seconds", "busy_frac", "prefetch_wait_s")
            values = {name: getattr(report, name) for name in names}
            return type("Report", (), {**values, "loss": float("nan"), "grad_norm": 1.0})()

    return FailsOnce


Tensors = Callable[[str], npt.NDArray[np.float32]]
"""A tensor of a checkpoint by its name, to be changed in place."""


def plant(run: Path, step: int) -> None:
    """Change the checkpoint of `step` as the head of this file says."""
    change(run, step, rare_logit(run))


def rare_logit(run: Path) -> Callable[[Tensors], None]:
    """What makes the rare token impossible."""

    def edit(tensor: Tensors) -> None:
        rare = rare_token(run)
        tensor("model.embed_tokens.weight")[:, 0] = 1000.0
        head = tensor("lm_head.weight")
        head[rare] = 0.0
        head[rare, 0] = -3e38

    return edit


def rare_token(run: Path) -> int:
    """The id of the rare character's last token."""
    return _symlm.Tokenizer.from_file(str(run / "tokenizer.json")).encode(RARE)[-1]


def change(run: Path, step: int, edit: Callable[[Tensors], None]) -> None:
    """Change weights of the checkpoint of `step`, and its manifest with them."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    raw, tensor = tensors((folder / WEIGHTS).read_bytes())
    edit(tensor)
    overwrite(folder, bytes(raw))


def tensors(file: bytes) -> tuple[bytearray, Tensors]:
    """A copy of a file of safetensors, and its f32 tensors by their names: what is written to one is written to the
    copy."""
    raw = bytearray(file)
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])

    def tensor(name: str) -> npt.NDArray[np.float32]:
        entry = header[name]
        assert entry["dtype"] == "F32", f"{name} is {entry['dtype']}"
        first, last = entry["data_offsets"]
        return np.frombuffer(raw, "<f4", (last - first) // 4, begin + first).reshape(entry["shape"])

    return raw, tensor


def overwrite(folder: Path, raw: bytes) -> None:
    """Give a checkpoint other weights, and a manifest that goes with them. Other names of the old file keep it."""
    path, manifest = folder / WEIGHTS, folder / MANIFEST
    content = json.loads(manifest.read_text())
    path.unlink()
    manifest.unlink()
    path.write_bytes(raw)
    content["files"][WEIGHTS]["sha256"] = file_hash(path)
    manifest.write_text(json.dumps(content))
