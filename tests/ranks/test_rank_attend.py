"""`--attend document` on several ranks: the bits of one, with the text of each host or with that of rank 0."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mpirun import SETTINGS, alone, good, hashes, mpirun, needs_mpi
from objects import Objects, examples, texts, write


@needs_mpi
@pytest.mark.parametrize("objects", [texts, examples])
def test_ranks_tell_documents_apart_as_one_does(objects: Objects, tmp_path: Path) -> None:
    write(tmp_path / "data.jsonl", objects(random.Random(3), 1500))
    train = ["train", "data.jsonl", *SETTINGS, "--attend", "document"]
    caches = {"SYMLM_CACHE_DIR": str(tmp_path / "cache")}
    good(tmp_path, alone(*train, "--out-dir", "one"), **caches)
    good(tmp_path, alone(*train[:-1], "window", "--out-dir", "window"), **caches)
    good(tmp_path, mpirun(3, *train, "--cross-check", "1", "--out-dir", "own"), **caches)
    good(tmp_path, mpirun(2, *train, "--data-from", "rank0", "--out-dir", "sent"), **caches)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "own") == hashes(tmp_path / "sent")
    assert hashes(tmp_path / "one") != hashes(tmp_path / "window")
