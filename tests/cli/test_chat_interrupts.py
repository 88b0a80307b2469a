"""Ctrl-C in `symlm chat`: what it interrupts ends, the command does not."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from symlm import Trainer
from symlm.config.train_config import TrainConfig

pytest.importorskip("jinja2")

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LONG = 1 << 15


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt nothing, so that its answers do not end before they have used up the context, which is
    longer than what a terminal takes that nobody reads."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "text.txt").write_text("yes and no " * 500)
    config = TrainConfig(preset="tiny", vocab_size=260, max_steps=1, batch_size=2, out_dir=str(folder / "run"))
    run = Trainer(config, data=[folder / "text.txt"]).fit().path
    made = folder / "model"
    command = [sys.executable, "-m", "symlm", "export", str(run), "--to", "hf", "--out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    settings = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": LONG}))
    return made


TAKES_TERMINAL = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.executable, sys.argv[1:])"
"""A process without a terminal gets the first one that it opens: from then on its Ctrl-C is a signal."""


class Terminal:
    """`symlm chat` in a terminal."""

    def __init__(self, model: Path, *words: str) -> None:
        self.said = ""
        self.end, theirs = os.openpty()
        command = [sys.executable, "-m", "symlm", "chat", str(model), *words]
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKES_TERMINAL, *command],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def write(self, text: str) -> None:
        os.write(self.end, text.encode())

    def wait_for(self, pattern: str) -> None:
        """Read until the terminal shows it; what came before is forgotten."""
        while (found := re.search(pattern, self.said)) is None:
            # However slow the machine is: a minute without a character is none that works.
            assert select.select([self.end], [], [], 60)[0], f"waited for {pattern!r}, found {self.said[-500:]!r}"
            try:
                self.said += os.read(self.end, 4096).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"the command ended before {pattern!r}: {self.said[-500:]!r}") from None
        self.said = self.said[found.end() :]

    def exit_code(self) -> int:
        """Wait for the end."""
        while select.select([self.end], [], [], 60)[0]:
            try:
                os.read(self.end, 4096)
            except OSError:
                break
        return self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.end)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_a_template_that_is_interrupted_answers_nobody(model: Path, tmp_path: Path, terminals: list[Terminal]) -> None:
    """The message is forgotten with it, and the next one gets an answer to itself."""
    (tmp_path / "slow.jinja").write_text(
        "{% if messages[-1].content == 'wait' %}" + LOOPS + "{% endif %}{{ messages[-1].content }}"
    )
    terminal = Terminal(model, "--chat-template", str(tmp_path / "slow.jinja"), "--max-new-tokens", "2")
    terminals.append(terminal)
    terminal.wait_for("> ")
    terminal.write("wait\n")
    terminal.wait_for("wait\r\n")
    terminal.write("\x03")
    terminal.wait_for("stopped")
    terminal.wait_for("> ")
    terminal.write("hello\n")
    terminal.wait_for("hello\r\n")
    terminal.wait_for("> ")
    terminal.write(f"/save {tmp_path}/kept.jsonl\n")
    terminal.wait_for("added to")
    terminal.write("\x04")
    assert terminal.exit_code() == 0
    messages = json.loads((tmp_path / "kept.jsonl").read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "hello"
