"""The tutorial, run as it stands: its commands one after the other, its files, and the words of its output."""

from __future__ import annotations

from pathlib import Path

from console import TUTORIAL, blocks, run_tutorial


def test_the_tutorial_runs_as_it_stands(tmp_path: Path, environment: dict[str, str]) -> None:
    assert run_tutorial(tmp_path, environment, set()) == set()


def test_only_other_programs_are_left_out() -> None:
    console = [block for block in blocks(TUTORIAL) if block.language == "console"]
    needed = {block.marks["needs"] for block in console if "needs" in block.marks}
    # The first two are run by tests/interop/test_tutorial.py.
    assert needed == {"transformers", "llama_cpp", "programs"}
    for block in console:
        if any(command.startswith("symlm ") for command, _ in block.commands()):
            assert "needs" not in block.marks, f"line {block.first_line}: symlm needs nothing else"


def test_its_scripts_are_python_of_the_usual_width() -> None:
    files = {block.marks["file"]: block for block in blocks(TUTORIAL) if "file" in block.marks}
    assert set(files) == {"make_data.py", "ask.py", "ask_llama.py"}
    for name, block in files.items():
        compile("\n".join(block.lines), name, "exec")
        assert max(map(len, block.lines)) <= 120, name
