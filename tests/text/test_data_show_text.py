"""What `symlm data show` prints is readable: lines are lines, and characters are whole however tokens divide them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from conftest import Cli
from symlm.cli.data import _readable
from symlm.text.survey import CONTEXT


def test_lines_end_as_lines_and_characters_are_whole(tmp_path: Path, cli: Cli) -> None:
    # So often that a token ends within a character, behind whole ones.
    text = "".join(f"ünïcode {number % 7} ünéven üné " for number in range(2000))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    done = cli("data", "show", tmp_path / "a.txt", "--vocab-size", 262, "--seq-len", 63, "--show", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["data", "format", "text"]
    assert "ünïcode 1 ünéven" in done.stdout
    assert "\ufffd" not in done.stdout


def test_half_a_character_behind_whole_ones_waits_for_the_rest(tmp_path: Path) -> None:
    class Halves:
        eot_id = 0

        def decode_bytes(self, tokens: list[int]) -> bytes:
            return [b"", "ün".encode() + b"\xc3", b"\xaf", b"\xff"][tokens[0]]

    parts = _readable(np.array([1, 2, 3, 1 | CONTEXT, 2 | CONTEXT], np.uint32), Halves())  # type: ignore[arg-type]
    assert parts == [("ün", True), ("ï", True), ("\ufffd", True), ("ün", False), ("ï", False)]
    # The end of a piece inside a character costs that character alone.
    assert _readable(np.array([1, 2, 1], np.uint32), Halves()) == [("ün", True), ("ï", True), ("ün", True)]  # type: ignore[arg-type]
