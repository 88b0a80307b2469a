"""Exported tokenizers in older versions of the library `tokenizers`, which lie beside the other tools or where
`SYMLM_OLDER_TOKENIZERS` says: a folder for each version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from elsewhere import llama3_tokenizer, make_model
from symlm.export.write import export

pytestmark = pytest.mark.interop

VERSIONS = ("0.15.2", "0.19.1")
PROBE = """
import json, sys, tokenizers
assert tokenizers.__version__ == sys.argv[1], tokenizers.__version__
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
ids = [tokenizer.encode(text).ids for text in json.load(sys.stdin)]
json.dump([ids, [tokenizer.decode(part, skip_special_tokens=False) for part in ids]], sys.stdout)
"""


@pytest.fixture(params=VERSIONS)
def older(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """A version, and the folder that it is installed in."""
    version: str = request.param
    place = Path(os.environ.get("SYMLM_OLDER_TOKENIZERS", Path(sys.prefix) / "older")) / version
    if not place.is_dir():
        pytest.skip(f"tokenizers {version} has no wheel for this Python")
    return version, place


def seen(older: tuple[str, Path], path: Path, texts: list[str]) -> Any:
    """Ids and texts that a version makes of texts."""
    version, place = older
    done = subprocess.run(
        [sys.executable, "-c", PROBE, version, str(path)], input=json.dumps(texts), capture_output=True, text=True,
        env={"PYTHONPATH": str(place)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def agrees(older: tuple[str, Path], path: Path, texts: list[str]) -> None:
    """A version takes the file for the tokenizer that the newest one takes it for."""
    newest = tokenizers.Tokenizer.from_file(str(path))
    ids = [newest.encode(text).ids for text in texts]
    assert seen(older, path, texts) == [ids, [newest.decode(part, skip_special_tokens=False) for part in ids]]


def test_the_tokenizer_of_a_run(older: tuple[str, Path], run: Path, held: str, tmp_path: Path) -> None:
    texts = [held[start : start + 2000] for start in range(0, 200_000, 2000)]
    texts += ["", " ", "naïve 北京 😀 \x00\u200b", "a<|endoftext|>b", "\u0f3a\U00013000\ufffd"]
    agrees(older, export(run, "hf", tmp_path / "hf").path / "tokenizer.json", texts)


def test_tokenizers_from_elsewhere(older: tuple[str, Path], tmp_path: Path) -> None:
    texts = ["the cat sat on the mat", " the  thé\n\n x 12345", "北京 😀 <|end|> it's"]
    blanks = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    raw = llama3_tokenizer()
    letters = {**raw, "pre_tokenizer": blanks, "decoder": blanks, "post_processor": None}
    for number, tokenizer in enumerate((raw, letters)):
        source = make_model(tmp_path / f"{number}", tokenizer=tokenizer).folder
        agrees(older, export(source, "hf", tmp_path / f"{number}-hf").path / "tokenizer.json", texts)
