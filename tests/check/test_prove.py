"""`symlm doctor --prove`: the golden run from the package alone."""

from __future__ import annotations

import json

import pytest

from conftest import Cli
from symlm.check.prove import EXPECTED, Proof, proof_text, prove
from symlm.errors import DifferenceError
from test_golden_run import GOLDEN, golden_text

FACTS = {"symlm": "1.2", "platform": "Linux", "cpu": "", "isa": "portable"}


def test_it_is_the_golden_run() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert proof_text() == golden_text()
    assert golden["model_sha256"] == EXPECTED


def test_this_machine_has_its_bits() -> None:
    done: list[str] = []
    proof = prove(done.append)
    proof.check()
    assert proof.found == EXPECTED
    assert done == list(EXPECTED)


def test_other_bits_are_told() -> None:
    proof = Proof({**EXPECTED, "tied-wsd": "0" * 64})
    assert "OTHER BITS" in proof.line(FACTS)
    with pytest.raises(DifferenceError, match="weights of tied-wsd are not those"):
        proof.check()


def test_the_command_prints_one_line(cli: Cli) -> None:
    done = cli("doctor", "--prove")
    assert done.returncode == 0, done.stderr
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert "equal bits ed4f921a19dcf47d 0728a76901312e42" in done.stdout
