"""Conversations against transformers: the same ids, the same targets, before and after an export."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from chat_templates import MARKED, SPECIAL, TEMPLATES, VARIABLES, conversation
from symlm import Trainer, _symlm, finetune_config
from symlm.chat.conversation import Conversation
from symlm.chat.renderer import Renderer
from symlm.chat.template import ChatTemplate
from symlm.config.train_config import TrainConfig
from symlm.export import export
from symlm.generate.chat import Chat
from symlm.text.conversations import grown_tokenizer

pytestmark = pytest.mark.interop

TEXT = "the quick brown fox adds 2+3 and gets 5, grüße an Łódź. " * 200


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> _symlm.Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "text.txt"
    path.write_text(TEXT)
    small = _symlm.Corpus.open([str(path)]).train_tokenizer(290, 1, None)
    return grown_tokenizer(small, SPECIAL, None)


@pytest.fixture(scope="module")
def library(tokenizer: _symlm.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> _symlm.Tokenizer:
    """The same file as a tokenizer from elsewhere."""
    path = tmp_path_factory.mktemp("library") / "tokenizer.json"
    tokenizer.save(path)
    raw = json.loads(path.read_text())
    raw["normalizer"] = {"type": "NFC"}
    path.write_text(json.dumps(raw))
    return _symlm.Tokenizer.of_model(path, 0, None)


def fast(path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(path), bos_token="<s>", eos_token="</s>")


def ids_of(found: Any) -> list[int]:
    return list(found["input_ids"] if hasattr(found, "keys") else found)


@pytest.mark.parametrize("kind", ["own", "library"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_apply_chat_template(
    name: str, kind: str, tokenizer: _symlm.Tokenizer, library: _symlm.Tokenizer, tmp_path: Path
) -> None:
    ours = tokenizer if kind == "own" else library
    ours.save(tmp_path / "tokenizer.json")
    theirs = fast(tmp_path / "tokenizer.json")
    with Renderer(ChatTemplate(TEMPLATES[name], name, VARIABLES, datetime.now())) as renderer:
        for system in (False, True):
            for turns in range(1, 7):
                for prompt in (False, True):
                    messages = conversation(turns, system)
                    expected = theirs.apply_chat_template(
                        messages, chat_template=TEMPLATES[name], tokenize=True, add_generation_prompt=prompt
                    )
                    found = ours.encode_rendered(renderer.text(messages, prompt=prompt))
                    assert found == ids_of(expected), (name, system, turns, prompt)


def targets(text: str, messages: list[dict[str, Any]], tokenizer: _symlm.Tokenizer, folder: Path) -> list[int]:
    """Ids of a conversation in a shard, those that are not learnt as -1 - id, without what fills the window."""
    with Renderer(ChatTemplate(text, "a test", VARIABLES, datetime.now())) as renderer:
        [found] = renderer.mark([("here", Conversation(messages))], "assistant", SPECIAL)
    record = {"text": found.text, "learn": found.learn, "cuts": [], "keep_end": False, "close": False}
    path = folder / "rendered.jsonl"
    path.write_text(json.dumps(record) + "\n")
    shards = _symlm.Corpus.open([path], data_format="rendered").prepare(tokenizer, folder, 0.0, 511, 1, None).train
    ids = shards.ids(0, shards.tokens, masked=True)
    while ids and ids[-1] == -1:
        ids.pop()
    return ids


@pytest.mark.parametrize("turns", [2, 3, 4])
@pytest.mark.parametrize("name", MARKED)
def test_targets_are_those_of_a_marked_template(
    name: str, turns: int, tokenizer: _symlm.Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    messages = conversation(turns, True)
    theirs = fast(tmp_path / "tokenizer.json").apply_chat_template(
        messages, chat_template=MARKED[name], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    mask = theirs["assistant_masks"]
    expected = [id_ if learnt else -1 - id_ for id_, learnt in zip(theirs["input_ids"], mask, strict=True)]
    assert any(mask)
    for text in (MARKED[name], TEMPLATES[name]):
        assert targets(text, messages, tokenizer, tmp_path) == expected


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained and fine-tuned on conversations."""
    folder = tmp_path_factory.mktemp("tuned")
    data = folder / "chat.jsonl"
    lines = [json.dumps({"messages": conversation(2 + 2 * (number % 2), number % 3 == 0)}) for number in range(40)]
    data.write_text("\n".join(lines))
    config = TrainConfig(preset="tiny", vocab_size=280, max_steps=8, batch_size=4, out_dir=str(folder / "run"))
    run = Trainer(config, data=[str(data)]).fit()
    return Trainer(finetune_config(run.path, max_steps=4, out_dir=str(folder / "tuned")), data=[str(data)]).fit().path


def answered(model: Path, messages: list[dict[str, Any]]) -> tuple[list[int], str, list[int]]:
    """What symlm makes of a question: its ids, the answer, and the ids that end one."""
    with Chat.from_pretrained(model, system=messages[0]["content"]) as chat:
        answer = chat.ask(messages[1]["content"], temperature=0, max_new_tokens=20)
        chat.messages.pop()
        return chat.prompt_ids(1), str(answer), list(chat.ends)


def test_an_exported_model_answers_the_same(tuned: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export(tuned, "hf", tmp_path / "hf")
    theirs, model = (
        AutoTokenizer.from_pretrained(tmp_path / "hf"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "hf"),
    )
    messages = conversation(1, True)
    prompt, answer, ends = answered(tuned, messages)
    ids = ids_of(theirs.apply_chat_template(messages, tokenize=True, add_generation_prompt=True))
    assert prompt == ids
    assert set(model.generation_config.eos_token_id) == set(ends) and len(ends) == 2
    made = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=20)[0][len(ids) :]
    assert theirs.decode(made, skip_special_tokens=True) == answer


def test_llama_cpp_is_asked_the_same_and_answers_the_same(tuned: Path, tmp_path: Path) -> None:
    import llama_cpp

    path = export(tuned, "gguf", tmp_path / "model.gguf").path
    llama = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, n_threads_batch=1, type_k=0, type_v=0, verbose=False)
    asked: list[list[int]] = []
    complete = llama.create_completion

    def recorded(*args: Any, **settings: Any) -> Any:
        asked.append(list(settings["prompt"]))
        return complete(*args, **settings)

    llama.create_completion = recorded
    for messages in (
        conversation(1, True),
        [{"role": "system", "content": "Ünï"}, {"role": "user", "content": "北京?\n"}],
    ):
        prompt, answer, _ = answered(tuned, messages)
        found: Any = llama.create_chat_completion(messages, temperature=0, max_tokens=20)
        assert asked.pop() == prompt
        assert found["choices"][0]["message"]["content"] == answer
    llama.close()
