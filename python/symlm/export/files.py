"""The files that an export consists of: a folder for transformers, a GGUF file, a Modelfile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..layout import (
    FACTS,
    GENERATION_CONFIG,
    GGUF_NAME,
    MODEL_CONFIG,
    MODELFILE,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WEIGHTS,
)
from ..model.companions import DEFAULT_TEMPLATE, as_field
from ..model.gguf import write
from ..model.gguf.vocabulary import Vocabulary
from ..model.tensors import DTYPES, outgoing, write_tensors
from ..system.files import file_hash
from .older_readers import portable, portable_config
from .provenance import WRITTEN_TOKENIZER, facts_json, model_card
from .source import Source
from .templates import without_generation

README = "README.md"


def write_hf(folder: Path, source: Source, dtype: str | None) -> Path:
    """Fill a folder for transformers, with the weights as `dtype` or as they are; gives the folder."""
    config, companions = source.config, source.companions
    code = None if dtype is None else DTYPES[dtype]
    with (folder / WEIGHTS).open("wb") as file:
        write_tensors(file, (outgoing(tensor, code) for tensor in source.tensors))
    _write_tokenizer(folder / TOKENIZER, source)
    torch_name = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype or source.dtype]
    shape = {**config.to_hf(), **companions.padding(), "torch_dtype": torch_name, "dtype": torch_name}
    _write_json(folder / MODEL_CONFIG, shape)
    companions.copy(folder, leave_out=(GENERATION_CONFIG, TOKENIZER_CONFIG))
    _write_json(folder / GENERATION_CONFIG, source.generation)
    own = companions.tokenizer_config
    if "tokenizer_class" not in own:
        # Otherwise it came with the model and says more than could be guessed here.
        special = {**_special_tokens(source), **companions.special_tokens}
        own = {**_tokenizer_config(source), **special, **own}
        if SPECIAL_TOKENS not in companions.files:
            _write_json(folder / SPECIAL_TOKENS, special)
    template = as_field(companions.chat_templates) if companions.chat_templates else None
    _write_json(folder / TOKENIZER_CONFIG, portable_config(own, template))
    tokenizer = file_hash(folder / TOKENIZER)
    same = tokenizer == source.facts["tokenizer_sha256"]
    facts = source.facts if same else {**source.facts, WRITTEN_TOKENIZER: tokenizer}
    (folder / FACTS).write_text(facts_json(facts), encoding="utf-8")
    ends = source.token(config.eos_token_ids[0]) if config.eos_token_ids else None
    card = model_card(source.name, config, facts, source.begins(), ends)
    (folder / README).write_text(card, encoding="utf-8")
    return folder


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tokenizer(path: Path, source: Source) -> None:
    """The tokenizer in the form that most readers know; the file itself where it is in that already."""
    written, _ = portable(source.tokenizer)
    if written == source.tokenizer:
        shutil.copyfile(source.files.tokenizer, path)
    else:
        _write_json(path, written)


def _special_tokens(source: Source) -> dict[str, str]:
    """The tokens that begin and end a text, and the one for padding."""
    ends = source.config.eos_token_ids
    ids = {"bos_token": source.config.bos_token_id, "eos_token": ends[0] if ends else None}
    ids["pad_token"] = source.generation.get("pad_token_id")
    texts = {name: source.token(number) for name, number in ids.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _tokenizer_config(source: Source) -> dict[str, Any]:
    return {
        # Of all classes the one that takes tokenizer.json as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.config.seq_len,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": source.begins() is not None,
        "add_eos_token": source.adds_end(),
    }


def write_gguf(path: Path, source: Source, vocabulary: Vocabulary, dtype: str) -> None:
    """Write the file for llama.cpp."""
    extras = write.Extras(
        facts=source.facts,
        settings=source.settings.gguf(),
        chat_templates={
            name: without_generation(template) for name, template in source.companions.chat_templates.items()
        },
        token_ids=source.token_ids(vocabulary)[0],
    )
    write.write_gguf(path, source.config, source.tensors, vocabulary, dtype, name=source.name, extras=extras)


def write_ollama(folder: Path, source: Source, vocabulary: Vocabulary, dtype: str) -> Path:
    """Fill a folder for Ollama; gives the GGUF file in it."""
    write_gguf(folder / GGUF_NAME, source, vocabulary, dtype)
    lines = [f"FROM ./{GGUF_NAME}"]
    if source.ollama_template is not None:
        lines.append(f'TEMPLATE """{source.ollama_template}"""')
    elif DEFAULT_TEMPLATE in source.companions.chat_templates:
        lines.append(f"# The chat template is in {GGUF_NAME}.")
    else:
        lines.append('TEMPLATE """{{ .Prompt }}"""')
    lines += source.modelfile()[0]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / GGUF_NAME
