"""The model that all of these tests share, and the text that they read.

`SYMLM_INTEROP_RUN` and `SYMLM_INTEROP_TEXT` name a run and a text to measure instead of the small ones made here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import symlm
from symlm.text.corpus import builtin_files

TRAIN_BYTES = 3_000_000
HELD_BYTES = 300_000


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Nothing here is even imported but with `-m interop`: the libraries are large."""
    asked = "interop" in str(config.getoption("markexpr", ""))
    return None if asked or collection_path.name in ("__init__.py", "conftest.py") else True


@pytest.fixture(scope="session")
def text() -> str:
    """The text: its last `HELD_BYTES` are not trained on."""
    named = os.environ.get("SYMLM_INTEROP_TEXT")
    if named:
        with Path(named).open("rb") as file:
            file.seek(max(Path(named).stat().st_size - TRAIN_BYTES - HELD_BYTES, 0))
            return file.read().decode("utf-8", errors="ignore")
    whole = "\n".join(Path(path).read_text(encoding="utf-8") for path in builtin_files())
    return whole[: TRAIN_BYTES + HELD_BYTES]


@pytest.fixture(scope="session")
def held(text: str) -> str:
    """Text that the model has not seen."""
    return text[-HELD_BYTES:]


@pytest.fixture(scope="session")
def run(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 0.8M parameters after 250 updates, with grouped heads: about a minute."""
    named = os.environ.get("SYMLM_INTEROP_RUN")
    if named:
        return Path(named)
    folder = tmp_path_factory.mktemp("model")
    path = folder / "text.txt"
    path.write_text(text[:-HELD_BYTES], encoding="utf-8")
    config = symlm.TrainConfig(
        out_dir=str(folder / "run"), preset="tiny", vocab_size=1024, hidden_size=128, num_layers=3, num_heads=4,
        num_kv_heads=2, intermediate_size=256, seq_len=256, batch_size=12, max_steps=250, sample_every=0,
        progress="off",
    )  # fmt: skip
    return symlm.Trainer(config, data=[path]).fit().path


@pytest.fixture(scope="session")
def generator(run: Path) -> symlm.Generator:
    """The model here."""
    return symlm.Generator.from_pretrained(run)


@pytest.fixture(scope="session")
def prompts(generator: symlm.Generator, held: str) -> list[str]:
    """Twenty texts of 1 to 90 tokens, or as many as the model takes."""
    assert generator.model is not None
    most = min(90, generator.model.seq_len - 8)
    encoded = generator.tokenizer.encode(held)
    step = len(encoded) // 20
    starts = [generator.tokenizer.decode(encoded[i * step : i * step + 1 + i * (most - 1) // 19]) for i in range(20)]
    return [text.strip("\ufffd") or "It was" for text in starts]
