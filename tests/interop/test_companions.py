"""Settings for generating, chat templates and special tokens of exported models, as transformers takes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

import symlm
from elsewhere import make_model
from symlm.export.write import export

pytestmark = pytest.mark.interop

DEFAULT = "{% for m in messages %}<|begin|>{{ m['role'] }}: {{ m['content'] }}<|end|>\n{% endfor %}"
TOOLS = "tools for {{ messages[0]['content'] }}"
MESSAGES = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
SETTINGS = {
    "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50, "min_p": 0.02, "repetition_penalty": 1.1,
    "max_new_tokens": 77, "stop_strings": ["User:"], "eos_token_id": [262, 263], "bos_token_id": 261,
}  # fmt: skip
IN_GGUF = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "eos_token_id", "bos_token_id")
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")


def fields(layout: str, folder: Path) -> dict[str, Any]:
    """Write chat templates in a layout of some version of transformers; gives fields of `tokenizer_config.json`."""
    if layout == "text":
        return {"chat_template": DEFAULT}
    if layout == "list":
        named = {"default": DEFAULT, "tool_use": TOOLS}
        return {"chat_template": [{"name": name, "template": text} for name, text in named.items()]}
    (folder / "chat_template.jinja").write_text(DEFAULT)
    if layout == "files":
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(TOOLS)
    return {}


@pytest.fixture(params=["text", "list", "file", "files"])
def chat(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model folder for dialogue."""
    folder = make_model(tmp_path / "chat").folder
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>",
        "pad_token": "<|stop|>", "model_max_length": 64, **fields(request.param, folder),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(SETTINGS))
    return folder


def tuned(chat: Path, folder: Path) -> Path:
    """A run of a step from a model."""
    (folder / "more.txt").write_text("the cat sat on the mat " * 300)
    config = symlm.finetune_config(
        chat, out_dir=str(folder / "run"), max_steps=1, batch_size=12, threads=1, lora_rank=2, progress="off",
        sample_every=0, val_split=0.0,
    )  # fmt: skip
    return symlm.Trainer(config, data=[folder / "more.txt"]).fit().path


def same(first: Path, second: Path, names: tuple[str, ...]) -> None:
    """Both folders are the same to transformers: dialogues, special tokens, and the settings `names`."""
    here, there = (transformers.AutoTokenizer.from_pretrained(path) for path in (first, second))
    kinds = [None, "tool_use"] if isinstance(here.chat_template, dict) else [None]
    for kind in kinds:
        ids = [t.apply_chat_template(MESSAGES, chat_template=kind, return_dict=False) for t in (here, there)]
        assert ids[0] == ids[1]
        assert len(ids[0]) > 10
    assert here.chat_template == there.chat_template
    assert [getattr(here, name) for name in TOKENS] == [getattr(there, name) for name in TOKENS]
    assert here("the cat sat").input_ids == there("the cat sat").input_ids
    settings = [transformers.GenerationConfig.from_pretrained(path) for path in (first, second)]
    for name in names:
        assert getattr(settings[0], name) == getattr(settings[1], name), name


def test_a_model_for_dialogue_stays_one(chat: Path, tmp_path: Path) -> None:
    every = tuple(SETTINGS)
    first = export(chat, "hf", tmp_path / "hf").path
    same(chat, first, every)
    same(chat, export(first, "hf", tmp_path / "again").path, every)
    run = tuned(chat, tmp_path)
    same(chat, export(run, "hf", tmp_path / "tuned").path, every)
    same(chat, export(run / "checkpoints" / "step-00000001", "hf", tmp_path / "checkpoint").path, every)
    for name, source in (("there", chat), ("run", run)):
        file = export(source, "gguf", tmp_path / f"{name}.gguf").path
        same(chat, export(file, "hf", tmp_path / f"back-{name}").path, IN_GGUF)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").generation_config.top_k == 50
