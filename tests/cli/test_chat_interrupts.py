"""Ctrl-C in `symlm chat`: what it interrupts ends, the command does not."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from planted import tensors
from symlm import Trainer, _symlm
from symlm.config.train_config import TrainConfig

pytest.importorskip("jinja2")

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
LONG = 1 << 15
LETTER = "y"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes the same letter for ever. Nothing but the end of the context ends its answers, and that is
    longer than what a terminal takes that nobody reads."""
    folder = tmp_path_factory.mktemp("talk")
    (folder / "text.txt").write_text("yes and no " * 500)
    config = TrainConfig(
        preset="tiny", vocab_size=260, tie_embeddings=False, max_steps=1, batch_size=2, out_dir=str(folder / "run")
    )
    run = Trainer(config, data=[folder / "text.txt"]).fit().path
    made = folder / "model"
    command = [sys.executable, "-m", "symlm", "export", str(run), "--to", "hf", "--out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    settings = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": LONG}))
    # Column 0 is so large that the last norm makes it the root of the number of columns at every position, and the
    # output head reads no other: the letter has a logit in the hundreds, every other token 0.
    weights = made / "model.safetensors"
    raw, tensor = tensors(weights.read_bytes())
    letter = _symlm.Tokenizer.from_file(str(run / "tokenizer.json")).encode(LETTER)[-1]
    tensor("model.embed_tokens.weight")[:, 0] = 1000.0
    tensor("model.norm.weight")[:] = 1.0
    head = tensor("lm_head.weight")
    head[:] = 0.0
    head[letter, 0] = 100.0
    weights.write_bytes(raw)
    return made


TAKES_TERMINAL = "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); os.execv(sys.executable, sys.argv[1:])"
"""A process without a terminal gets the first one that it opens: from then on its Ctrl-C is a signal."""


class Terminal:
    """`symlm chat` in a terminal."""

    def __init__(self, model: Path, *words: str, stderr: int | None = None) -> None:
        self.said = ""
        self.end, theirs = os.openpty()
        command = [sys.executable, "-m", "symlm", "chat", str(model), *words]
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKES_TERMINAL, *command],
            stdin=theirs, stdout=theirs, stderr=theirs if stderr is None else stderr, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def write(self, text: str) -> None:
        os.write(self.end, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Read until the terminal shows it, and give what it shows; what came before is forgotten."""
        while (found := re.search(pattern, self.said)) is None:
            # However slow the machine is: a minute without a character means that it hangs.
            assert select.select([self.end], [], [], 60)[0], f"waited for {pattern!r}, found {self.said[-500:]!r}"
            try:
                self.said += os.read(self.end, 4096).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"the command ended before {pattern!r}: {self.said[-500:]!r}") from None
        self.said = self.said[found.end() :]
        return found[0]

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


def test_an_answer_stops_and_stays_as_far_as_it_came(model: Path, tmp_path: Path, terminals: list[Terminal]) -> None:
    (tmp_path / "plain.jinja").write_text(PLAIN)
    terminal = Terminal(model, "--chat-template", str(tmp_path / "plain.jinja"), "--max-new-tokens", str(LONG))
    terminals.append(terminal)
    terminal.wait_for("> ")
    terminal.write("\x03")
    terminal.wait_for("Ctrl-D or /exit leaves")
    terminal.wait_for("> ")
    for number in range(2):
        terminal.write(f"question {number}\n")
        terminal.wait_for(f"question {number}\r\n")
        terminal.wait_for(f"(?s:{LETTER}.*?){{3}}")
        terminal.write("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for("> ")
    terminal.write(f"/save {tmp_path}/kept.jsonl\n")
    terminal.wait_for("added to")
    terminal.write("/exit\n")
    assert terminal.exit_code() == 0
    messages = json.loads((tmp_path / "kept.jsonl").read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert all(messages[n]["content"] == f"question {n // 2}" for n in (0, 2))
    assert all(3 <= len(messages[n]["content"]) < LONG // 2 for n in (1, 3))
    assert {letter for n in (1, 3) for letter in messages[n]["content"]} == {LETTER}


def sleeps(process: subprocess.Popen[bytes]) -> bool:
    """Whether its main thread waits for something."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_signal_before_the_wait_for_a_line_is_noticed_at_once(model: Path, terminals: list[Terminal]) -> None:
    """It comes while the prompt is on its way to a terminal that takes nothing, and so before the wait for a key."""
    hears, tells = os.pipe()
    terminal = Terminal(model, "--chat-template", "chatml", stderr=tells)
    os.close(tells)
    terminals.append(terminal)
    terminal.write("\x13")
    with os.fdopen(hears, "rb") as said:
        while b"Ctrl-D leaves" not in said.readline():
            pass
        slept = 0
        while slept < 10:
            slept = slept + 1 if sleeps(terminal.process) else 0
            time.sleep(0.02)
        terminal.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        terminal.write("\x11")
        assert select.select([said], [], [], 60)[0], "the signal was not noticed within a minute"
        assert said.readline() == b"Ctrl-D or /exit leaves\n"
        terminal.write("/exit\n")
        assert terminal.exit_code() == 0


def test_a_template_that_is_interrupted_answers_nobody(model: Path, tmp_path: Path, terminals: list[Terminal]) -> None:
    """The message is forgotten with it, and the next one gets an answer to itself."""
    (tmp_path / "slow.jinja").write_text(
        "{% if messages[-1].content == 'wait' %}" + LOOPS + "{% endif %}{{ messages[-1].content }}"
    )
    terminal = Terminal(model, "--chat-template", str(tmp_path / "slow.jinja"), "--max-new-tokens", "2")
    terminals.append(terminal)
    terminal.wait_for("> ")
    found = "leaves"
    while found == "leaves":
        # The terminal shows a line before anybody has read it, and Ctrl-C throws it away until then.
        terminal.write("wait\n")
        terminal.wait_for("wait\r\n")
        time.sleep(0.2)
        terminal.write("\x03")
        found = terminal.wait_for("stopped|leaves")
        terminal.wait_for("> ")
    terminal.write("hello\n")
    terminal.wait_for("hello\r\n")
    terminal.wait_for("> ")
    terminal.write(f"/save {tmp_path}/kept.jsonl\n")
    terminal.wait_for("added to")
    # Before the prompt the terminal still takes whole lines, and the change forgets an end of file.
    terminal.wait_for("> ")
    terminal.write("\x04")
    assert terminal.exit_code() == 0
    messages = json.loads((tmp_path / "kept.jsonl").read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[0]["content"] == "hello"
