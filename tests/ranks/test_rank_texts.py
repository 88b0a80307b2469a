"""The text of ranks after 0 is that of rank 0: conversations, models from elsewhere; and so is what they were started
with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from chat_templates import CHATML
from mpirun import SETTINGS, alone, good, hashes, mpirun, needs_mpi, run
from symlm.layout import CHAT_TEMPLATE
from test_golden_run import golden_text

SMALL = ["--batch-size", "5", "--seq-len", "32", "--max-steps", "4", "--sample-every", "0", "--threads", "1"]
TEMPLATE = "{% for message in messages %}{{ '[' + message['role'] + '] ' + message['content'] + '\\n' }}{% endfor %}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, conversations, and a model from elsewhere whose chat template is not the built-in one."""
    pytest.importorskip("jinja2")
    from elsewhere import make_model

    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text(golden_text(), encoding="utf-8")
    turns = [
        [{"role": "user", "content": f"what is {i} and 1"}, {"role": "assistant", "content": f"it is {i + 1}"}]
        for i in range(200)
    ]
    lines = [json.dumps({"messages": of}) for of in turns]
    (folder / "chat.jsonl").write_text("\n".join(lines), encoding="utf-8")
    make_model(folder / "model")
    settings = {"chat_template": TEMPLATE, "bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def on_hosts(place: Path, ranks: int, *words: str, first: str = ":", other: str = ":") -> list[str]:
    """A command for ranks with a separate cache each; a line of shell runs on rank 0, another one on the others."""
    script = place / "host.sh"
    script.write_text(
        "rank=${PMI_RANK:-$OMPI_COMM_WORLD_RANK}\nexport SYMLM_CACHE_DIR=$PWD/cache$rank\n"
        f'if [ "$rank" = 0 ]; then {first}; else {other}; fi\nexec "$@"\n',
        encoding="utf-8",
    )
    command = mpirun(ranks, *words)
    at = command.index(sys.executable)
    return [*command[:at], "bash", str(script), *command[at:]]


@needs_mpi
@pytest.mark.parametrize("data_from", ["own", "rank0"])
def test_a_model_from_elsewhere_learns_all_of_conversations(place: Path, data_from: str) -> None:
    """Its template and its tokenizer are its own, and nothing but the words of rank 0 says so."""
    words = ("finetune", "model", "chat.jsonl", *SMALL, "--train-on", "all", "--no-add-tokens")
    one = place / "tuned-one"
    if not one.exists():
        good(place, alone(*words, "--out-dir", one.name))
    assert (one / CHAT_TEMPLATE).read_text(encoding="utf-8") == TEMPLATE
    name = f"tuned-{data_from}"
    begun = (*words, "--data-from", data_from, "--out-dir", name, "--stop-at-step", "2")
    good(place, on_hosts(place, 2, *begun))
    # From here on the template is that of the run.
    good(place, on_hosts(place, 3, "train", "--resume", "auto", "--data-from", data_from, "--out-dir", name))
    assert hashes(place / name) == hashes(one)


@needs_mpi
def test_a_chat_template_that_only_rank_0_has(place: Path) -> None:
    chat = ("train", str(place / "chat.jsonl"), *SMALL, *SETTINGS[:12], "--vocab-size", "290", "--preset", "tiny")
    # The others stand elsewhere, where this name leads nowhere.
    host, name = place / "host0", "/proc/self/cwd/own.jinja"
    host.mkdir()
    (host / "own.jinja").write_text(CHATML.replace("<|im_end|>", "<|end|>"), encoding="utf-8")
    good(host, alone(*chat, "--chat-template", name, "--out-dir", str(place / "chat-one")))
    command = on_hosts(
        place, 2, *chat, "--out-dir", str(place / "chat-two"),
        first=f"cd host0; export SYMLM_CHAT_TEMPLATE={name}", other=f"export SYMLM_CHAT_TEMPLATE={name}",
    )  # fmt: skip
    good(place, command)
    assert hashes(place / "chat-two") == hashes(place / "chat-one")


@needs_mpi
def test_a_rank_that_was_started_with_another_setting_is_named(place: Path) -> None:
    words = ("train", "text.txt", *SETTINGS, "--out-dir", "differs")
    at = words.index("--seed")
    words = (*words[:at], *words[at + 2 :])
    done = run(place, on_hosts(place, 3, *words, other='[ "$rank" = 2 ] && export SYMLM_SEED=8'))
    assert done.returncode == 1, done.stderr
    assert "error: rank 2 on " in done.stderr
    assert "was started with another --seed: 8, rank 0 on " in done.stderr
    assert not (place / "differs").exists()
