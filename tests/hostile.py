"""The table of hostile inputs: what every parameter of every command is called with, and the files that it may meet."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import click

from symlm.cli import cli
from symlm.cli.common import PathName

CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "line": b"\n",
    "binary": bytes(range(256)) * 8,
    "zeros": bytes(5000),
    "latin1": b"caf\xe9 " * 50,
    "json garbage": b'{"model": [1, {"a": nul',
    "json list": b"[1, 2, 3]",
    "json object": b'{"version": 1, "model": {"type": "BPE", "vocab": [], "merges": 7}, "model_type": "llama"}',
    "deep json": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "long number": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"prompt": "\\ud800", "choices": ["\\udfff", "b"], "answer": 0}\n',
    "toml garbage": b'batch_size = = 3\n[[["',
    "toml unknown": b'data = ["\\u0000zz"]\nbatch = 3\n',
    "safetensors garbage": struct.pack("<Q", 1 << 60)
    + b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [9, 1]}}',
    "safetensors short": struct.pack("<Q", 80)
    + b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'.ljust(80),
    "gguf magic": b"FUGG" + bytes(60),
    "gguf short": b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62),
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
}
"""What a file may hold."""

NAMES: dict[str, str] = {
    "missing": "no/such",
    "empty name": "",
    "blank": " ",
    "dash": "-",
    "dashes": "--",
    "like a flag": "-x.txt",
    "dot": ".",
    "root": "/",
    "quotes": "'a\"b`",
    "emoji": "🚀.txt",
    "right to left": "\u202egpj.ملف",
    "line end": "a\nb\t\x1b[31m",
    "bytes": os.fsdecode(b"fr\xe9\xff"),
    "half": "a\ud800b",
    "nul": "a\0b",
    "long name": "x" * 300,
    "long path": "x/" * 2500,
    "home": "~no-such-user/x",
    "null": "/dev/null",
    "full": "/dev/full",
    "no folder": "/proc/self/mem/x",
    "kernel": "/sys/symlm",
    "glob": "[",
    "folder": "things/folder",
    "model": "things/model",
    "loop": "things/loop",
    "broken link": "things/broken",
    "pipe": "things/pipe",
    "unreadable": "things/unreadable",
    **{f"file: {name}": f"things/{name}" for name in CONTENTS},
}
"""What a path may be."""

NUMBERS = (
    "0", "-1", "-0", "nan", "-inf", "1e400", "1e-400", "9" * 26, "9" * 5000, "0x10", "1_0", "1,0", "٣", "1.5",
    "+", "1e", "true",
)  # fmt: skip
"""What a number may be."""

TEXTS = (
    "",
    " ",
    "a\nb",
    "🚀",
    "\u202e",
    "\x1b[2J",
    os.fsdecode(b"\xe9"),
    "\ud800",
    "\0",
    "-",
    "--",
    "auto",
    "x" * 100_000,
)
"""What a text may be."""

SMALL = {
    "vocab_size": "260", "hidden_size": "8", "intermediate_size": "8", "num_layers": "1", "num_heads": "1",
    "num_kv_heads": "1", "seq_len": "8", "batch_size": "12", "threads": "1",
}  # fmt: skip
TRAIN = {"max_steps": "1", "eval_batches": "1", "sample_every": "0", "progress": "off", "out_dir": "new"}
TUNE = TRAIN | {"batch_size": "12", "seq_len": "8", "threads": "1"}
QUIET = {"threads": "1", "progress": "off"}
BENCH = {"quick": "", "threads": "1", "out_dir": "new", "rounds": "1", "updates": "1", "scaling": "1"}

CALLS: dict[str, tuple[str, dict[str, str]]] = {
    "train": ("train", {"data": "text.txt", **SMALL, **TRAIN}),
    "finetune": (
        "finetune",
        {"model": "run", "data": "text.txt", **TUNE},
    ),
    "generate": ("generate", {"model": "run", "prompt": "a", "max_new_tokens": "1", "seed": "1"}),
    "chat": ("chat", {"model": "run", "chat_template": "chatml", "max_new_tokens": "1", "seed": "1"}),
    "serve": ("serve", {"model": "run", "port": "0"}),
    "eval": ("eval", {"model": "run", "data": "text.txt", "threads": "1", "progress": "off"}),
    "export": ("export", {"model": "run", "to": "hf", "out": "new"}),
    "tokenizer train": ("tokenizer train", {"data": "text.txt", "vocab_size": "258", "out": "new", "threads": "1"}),
    "tokenizer encode": ("tokenizer encode", {"text": "a", "source": "run"}),
    "tokenizer decode": ("tokenizer decode", {"ids": "1", "source": "run"}),
    "replay": ("replay", {"run": "run", "step": "1", "threads": "1", "progress": "off"}),
    "verify": ("verify", {"run": "run", "steps": "1", "threads": "1", "progress": "off"}),
    "plot": ("plot", {"runs": "run", "out": "new.svg"}),
    "bench": ("bench", BENCH | {name: value for name, value in SMALL.items() if name != "threads"}),
    "doctor": ("doctor", {}),
    "data show": ("data show", {"data": "text.txt", "vocab_size": "258", "seq_len": "8"}),
}
"""Every command, with a call of it that works."""

MORE_CALLS: dict[str, tuple[str, dict[str, str]]] = {
    "eval choices": ("eval", {"model": "run", "choices": "choices.jsonl", "out": "new", **QUIET}),
    "eval documents": ("eval", {"model": "run", "data": "text.txt", "per_document": "", "out": "new", **QUIET}),
    "export gguf": ("export", {"model": "run", "to": "gguf", "out": "new"}),
    "export ollama": ("export", {"model": "run", "to": "ollama", "out": "new"}),
    "plot tensorboard": ("plot", {"runs": "run", "tensorboard": "new"}),
    "resume": ("train", {"resume": "run", "progress": "off"}),
    "train from": ("train", {"init_from": "run", "data": "text.txt", **TUNE}),
    "plan": ("train", {"data": "text.txt", "dry_run": "", "tokenizer": "run/tokenizer.json", **TRAIN}),
}  # fmt: skip
"""Other ways to call them, of which only the parameters named here are varied."""

NOT_REACHED: dict[str, dict[str, str]] = {
    "train": {"out_dir": "run"}, "finetune": {"out_dir": "run"}, "train from": {"out_dir": "run"},
    "bench": {"out_dir": "text.txt"}, "chat": {"model": "missing"},
}  # fmt: skip
"""What stops a call as soon as its settings are read: for parameters of which more is not of interest."""

WRITES = {"out", "out_dir", "json", "trace", "tensorboard"}
"""Parameters that name a file to be written: what is in it now does not matter."""

PLAIN_TEXTS = {"text_field", "sample_prompt", "prompt", "stop", "system", "text"}
"""Parameters that take any text: a number is one more."""

FEW = ("missing", "empty name", "dash", "root", "bytes", "line end", "nul", "long name", "full", "no folder", "folder")
"""Names that are enough where each call is long."""

READS_PIPES = {"data", "val_data", "config_file", "choices"}
"""Parameters for which a pipe is as good as a file: they wait until somebody writes to it."""


def commands(group: click.Group = cli, words: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command of the command line but groups, with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{words}{name} ")
        else:
            yield words + name, command


def values_for(parameter: click.Parameter, call: str) -> list[str]:
    """The hostile values of a parameter of a call."""
    if isinstance(parameter.type, PathName):
        left_out = {"pipe"} if parameter.name in READS_PIPES else set()
        # All text of the machine would be read, or event files would go there.
        left_out |= {"root"} if parameter.name in {"data", "val_data", "tensorboard"} else set()
        if parameter.name in WRITES:
            left_out |= {f"file: {name}" for name in CONTENTS if name != "empty"}
            left_out |= NAMES.keys() - set(FEW) if call == "bench" else set()
        return [name for label, name in NAMES.items() if label not in left_out]
    if isinstance(parameter.type, click.Choice) or parameter.name in PLAIN_TEXTS:
        return list(TEXTS)
    if isinstance(parameter.type, (click.types.IntParamType, click.types.FloatParamType)):
        return [*NUMBERS, *TEXTS]
    return [*TEXTS, *NUMBERS]


def arguments(command: click.Command, words: str, values: dict[str, str]) -> list[str]:
    """The words that call a command with these values of its parameters."""
    options: list[str] = []
    positional: list[str] = []
    for parameter in command.params:
        if parameter.name not in values:
            continue
        value = values[parameter.name]
        if isinstance(parameter, click.Argument):
            positional.append(value)
        elif isinstance(parameter, click.Option) and parameter.is_flag:
            options.append(parameter.opts[0])
        else:
            options += [parameter.opts[0], value]
    return [*words.split(), *options, "--", *positional]


def make_things(folder: Path) -> None:
    """The files that `NAMES` speaks of, and a text and questions that are as they should be."""
    things = folder / "things"
    (things / "folder").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (things / name).write_bytes(content)
    (things / "loop").symlink_to("loop")
    (things / "broken").symlink_to("nowhere")
    os.mkfifo(things / "pipe")
    (things / "unreadable").write_text("text")
    (things / "unreadable").chmod(0)
    model = things / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": "many"}))
    for name in ("model.safetensors", "tokenizer.json"):
        (model / name).write_bytes(CONTENTS["binary"])
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    (folder / "choices.jsonl").write_text('{"prompt": "the", "choices": [" fox", " dog"], "answer": 0}\n')
