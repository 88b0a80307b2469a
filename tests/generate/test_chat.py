"""Conversations with a model: what it reads, what it answers, on the command line too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from symlm import Trainer, UsageError, UserError
from symlm.config.train_config import TrainConfig
from symlm.generate.chat import Chat

pytest.importorskip("jinja2")

SYMLM = [sys.executable, "-m", "symlm"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    data = folder / "chat.jsonl"
    turns = [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "yes"}]
    data.write_text("\n".join(json.dumps({"messages": turns}) for _ in range(60)))
    config = TrainConfig(
        preset="tiny", vocab_size=262, max_steps=60, batch_size=4, seq_len=64, val_split=0.0, sample_every=0,
        learning_rate=4e-3, out_dir=str(folder / "run"),
    )  # fmt: skip
    return Trainer(config, data=[data]).fit().path


def test_it_answers_and_stops_at_the_end_of_its_turn(run: Path) -> None:
    with Chat.from_pretrained(run, "last") as chat:
        assert chat.ask("Say yes.", temperature=0, max_new_tokens=30) == "yes"
        assert chat.messages[-1] == {"role": "assistant", "content": "yes"}
        assert chat.ask("Say yes.", temperature=0, max_new_tokens=30, stop="e") == "y"
        chat.reset()
        assert chat.messages == []


def test_an_answer_that_is_stopped_is_part_of_the_conversation(run: Path) -> None:
    with Chat.from_pretrained(run, "last") as chat:
        pieces = chat.stream("Say yes.", temperature=0, max_new_tokens=30)
        first = next(pieces)
        pieces.close()
        assert [message["content"] for message in chat.messages] == ["Say yes.", first]


def test_whole_turns_drop_out_when_the_context_is_full(run: Path) -> None:
    with Chat.from_pretrained(run, "last", system="Be kind.") as chat:
        for number in range(6):
            chat.ask(f"Say {number}.", temperature=0, max_new_tokens=3)
            text = chat.generator.tokenizer.decode(chat.prompt_ids(8))
            assert len(chat.prompt_ids(8)) <= 64 - 8
            # What the system says stays, and no turn is there in part.
            assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n")
        assert chat.left_out > 0 and len(chat.messages) == 13
        with pytest.raises(UsageError, match=r"the message is .* tokens .*, the context of 64"):
            chat.ask("long " * 100)
        assert len(chat.messages) == 13


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("yes and no " * 500)
    config = TrainConfig(preset="tiny", vocab_size=260, max_steps=1, batch_size=2, out_dir=str(tmp_path / "run"))
    model = Trainer(config, data=[text]).fit().path
    with pytest.raises(UserError, match=r"has no chat template") as caught:
        Chat.from_pretrained(model)
    assert "--chat-template" in str(caught.value.hint)
    with Chat.from_pretrained(model, template="chatml") as chat:
        chat.ask("Hi", max_new_tokens=3)


def test_the_commands(run: Path, tmp_path: Path) -> None:
    asked = [*SYMLM, "generate", str(run), "--checkpoint", "last", "--temperature", "0", "-n", "9"]
    done = subprocess.run([*asked, "--chat", "-p", "Say yes."], capture_output=True, text=True, check=True)
    assert done.stdout == "yes\n"
    done = subprocess.run([*asked, "--system", "a"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "add --chat" in done.stderr
    kept = tmp_path / "kept.jsonl"
    said = f"Say yes.\n/save {kept}\n/reset\n/save {tmp_path}/no/folder\n/what\nSay yes.\n/save {kept}\n/exit\nno\n"
    done = subprocess.run(
        [*SYMLM, "chat", str(run), "--checkpoint", "last", "--temperature", "0"],
        input=said, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "yes\nyes\n"
    assert "cannot write" in done.stderr and "/reset forgets" in done.stderr
    turns = [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "yes"}]
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [{"messages": turns}] * 2
