"""Data compressed twice, files that are not there: messages name it and say what to do."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import pytest

from symlm import _symlm
from symlm.config.toml import read_toml
from symlm.errors import DataError
from symlm.evaluation.choices import Questions


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        _symlm.Corpus.open([path])
    return caught.value


def test_what_is_compressed_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(gzip.compress(b"text " * 100)))
    error = refused(path)
    assert error.message.endswith("found gzip data within gzip data, expected text: it is compressed twice")
    assert "gzip -dc FILE > NEW" in str(error.hint)
    with pytest.raises(DataError, match="compressed twice"):
        Questions(path)
    path.write_bytes(gzip.compress(bz2.compress(b"text " * 100)))
    error = refused(path)
    assert error.message.endswith("found bzip2 data within gzip data, expected text: it is compressed twice")
    assert "unpack the outer one" in str(error.hint)


def test_a_configuration_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(DataError, match="found a Git LFS pointer") as caught:
        read_toml(str(path))
    assert caught.value.hint == "git lfs pull fetches it"
