"""Compressed files as tools make them, and pointers of Git LFS in the place of files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import symlm
from conftest import Cli
from symlm.errors import DataError
from symlm.evaluation.choices import read_items
from symlm.system.reading import open_binary

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 12345\n"
QUESTION = b'{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n'


def test_archives_and_damage_are_named(tmp_path: Path, text: Path, cli: Cli) -> None:
    raw = text.read_bytes()
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(raw)[:-9])
    (tmp_path / "a.txt.bz2").write_bytes(bz2.compress(raw)[:-9])
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x04\x00" + raw)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", raw)
    told = {name: f"damaged or truncated {name} data" for name in ("xz", "bzip2", "zstd")}
    told = {"a.txt.xz": told["xz"], "a.txt.bz2": told["bzip2"], "a.jsonl.zst": told["zstd"]}
    told["a.zip"] = "found a zip archive, expected text"
    for name, what in told.items():
        done = cli("tokenizer", "train", name, "--vocab-size", 300)
        assert done.returncode == 3 and f"{name}: {what}" in done.stderr, done.stderr
        assert "hint: " in done.stderr
        with pytest.raises(DataError, match=what):
            list(read_items(tmp_path / name))


def test_the_same_text_however_it_is_packed(tmp_path: Path, text: Path, environment: dict[str, str]) -> None:
    raw = text.read_bytes()
    packed = gzip.compress(raw[:1000]) + gzip.compress(raw[1000:]) + bytes(1024)
    (tmp_path / "a.txt.gz").write_bytes(packed)
    (tmp_path / "b.txt").write_bytes(packed)
    made = []
    for name, given in [("text.txt", b""), ("a.txt.gz", b""), ("b.txt", b""), ("-", packed), ("-", raw)]:
        words = ["tokenizer", "train", name, "--vocab-size", "300", "--out", "t.json", "--force"]
        done = subprocess.run(
            [sys.executable, "-m", "symlm", *words],
            cwd=tmp_path, env=environment, input=given, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (name, done.stderr)
        made.append((tmp_path / "t.json").read_bytes())
    assert all(tokenizer == made[0] for tokenizer in made)


def test_questions_however_they_are_packed(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    for raw in [
        gzip.compress(QUESTION) + bytes(512),
        gzip.compress(QUESTION[:9]) + gzip.compress(QUESTION[9:]),
        QUESTION,
    ]:
        path.write_bytes(raw)
        assert len(list(read_items(path))) == 1
    path.write_bytes(gzip.compress(QUESTION)[:-5])
    with pytest.raises(DataError, match="damaged or truncated gzip data"):
        list(read_items(path))


@pytest.mark.skipif(shutil.which("gzip") is None, reason="needs gzip")
def test_a_hint_names_no_check_that_passes(tmp_path: Path, text: Path, cli: Cli) -> None:
    raw = gzip.compress(text.read_bytes())
    for damaged in (raw[:-9], raw[:5000] + b"?" + raw[5001:], raw + b"\x1f\x8b\x08", raw + b"garbage"):
        (tmp_path / "a.txt.gz").write_bytes(damaged)
        done = cli("tokenizer", "train", "a.txt.gz", "--vocab-size", 300)
        assert done.returncode == 3 and "damaged or truncated gzip data" in done.stderr, done.stderr
        if "gzip -t" in done.stderr:
            checked = subprocess.run(["gzip", "-t", tmp_path / "a.txt.gz"], capture_output=True, check=False)
            assert checked.returncode == 1
        else:
            assert "behind the last member" in done.stderr


def test_pointers_of_git_lfs(tmp_path: Path, text: Path, cli: Cli) -> None:
    config = symlm.TrainConfig(
        preset="tiny", vocab_size=280, seq_len=32, batch_size=4, max_steps=1, sample_every=0, progress="off",
        out_dir=str(tmp_path / "run"),
    )  # fmt: skip
    symlm.Trainer(config, data=[text]).fit()
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000001"
    (tmp_path / "model").mkdir()
    for name, source in {
        "config.json": checkpoint,
        "model.safetensors": checkpoint,
        "tokenizer.json": tmp_path / "run",
    }.items():
        shutil.copyfile(source / name, tmp_path / "model" / name)
    assert cli("eval", "model", "text.txt").returncode == 0
    words: list[list[object]] = []
    for name in ("p.txt", "p.jsonl", "p.json", "p.txt.gz", "p.gguf"):
        (tmp_path / name).write_bytes(POINTER)
        words.append(["generate", name, "--prompt", "a"] if name == "p.gguf" else ["train", name])
    words.append(["eval", "model", "--choices", "p.jsonl"])
    words.append(["train", "text.txt", "--tokenizer", "p.json"])
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        folder = tmp_path / f"without-{name}"
        shutil.copytree(tmp_path / "model", folder)
        (folder / name).write_bytes(POINTER)
        words += [["eval", folder, "text.txt"], ["export", folder, "--to", "hf", "--out", "out"]]
    for command in words:
        done = cli(*command)
        assert done.returncode == 3 and "found a Git LFS pointer, expected the file that it" in done.stderr, (
            command,
            done.stderr,
        )
        assert "git lfs pull" in done.stderr, command
    (tmp_path / "no-pointer").write_bytes(POINTER[:44])
    with open_binary(tmp_path / "no-pointer") as file:
        assert file.read() == POINTER[:44]
