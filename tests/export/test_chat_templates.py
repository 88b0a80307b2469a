"""Chat templates in exports: without the block for training, and in Ollama's language."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from chat_templates import MARKED, TEMPLATES, VARIABLES, conversation
from symlm import Trainer
from symlm.chat.renderer import Renderer
from symlm.chat.template import ChatTemplate
from symlm.config.train_config import TrainConfig
from symlm.export import export
from symlm.export.templates import for_ollama, without_generation

pytest.importorskip("jinja2")


def template(text: str) -> ChatTemplate:
    return ChatTemplate(text, "a test", VARIABLES, datetime(2026, 1, 31))


@pytest.mark.parametrize("name", MARKED)
def test_a_template_without_its_marks_writes_the_same(name: str) -> None:
    bare = without_generation(MARKED[name])
    assert "generation %" not in bare and bare != MARKED[name]
    for prompt in (False, True):
        texts = set()
        for text in (bare, MARKED[name], TEMPLATES[name]):
            with Renderer(template(text)) as renderer:
                texts.add(renderer.text(conversation(5, True), prompt=prompt))
        assert len(texts) == 1


def test_a_template_that_treats_all_messages_alike_is_translated() -> None:
    around = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    assert for_ollama(template(TEMPLATES["chatml"]), None) == around
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    message = header.format("{{ .Role }}") + "{{ .Content }}<|eot_id|>"
    expected = "{{ range .Messages }}" + message + "{{ end }}" + header.format("assistant")
    assert for_ollama(template(TEMPLATES["llama-3"]), None) == "<s>" + expected
    assert for_ollama(template(TEMPLATES["llama-3"]), "<s>") == expected
    for other in ("llama-2", "qwen", "gemma", "mistral"):
        assert for_ollama(template(TEMPLATES[other]), None) is None
    assert for_ollama(template("{% broken"), None) is None


def test_a_model_that_was_trained_on_conversations_takes_its_template_along(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    data = tmp_path / "chat.jsonl"
    data.write_text("\n".join(json.dumps({"messages": conversation(4, False)}) for _ in range(20)))
    marked = tmp_path / "chatml.jinja"
    marked.write_text(MARKED["chatml"])
    config = TrainConfig(
        preset="tiny", vocab_size=262, max_steps=1, batch_size=2, chat_template=str(marked), sample_every=0,
        out_dir=str(tmp_path / "run"),
    )  # fmt: skip
    run = Trainer(config, data=[data]).fit().path
    assert (run / "chat_template.jinja").read_text() == MARKED["chatml"]
    export(run, "hf", tmp_path / "hf")
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == MARKED["chatml"]
    known = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert known["chat_template"] == MARKED["chatml"] and known["bos_token"] == "<|endoftext|>"
    ends = json.loads((tmp_path / "hf" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [0, 261]
    done = export(run, "ollama", tmp_path / "ollama")
    lines = (tmp_path / "ollama" / "Modelfile").read_text()
    assert 'TEMPLATE """{{ range .Messages }}<|im_start|>{{ .Role }}' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert not any("template" in sentence for sentence in done.left_out)
    assert b"{%- if true %}" in (tmp_path / "ollama" / "model.gguf").read_bytes()
