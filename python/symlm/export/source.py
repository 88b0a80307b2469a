"""A model that is being exported: all that is read of it, and what of that a format has no place for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from .. import _symlm
from ..config.engine import model_shape
from ..config.model_config import ModelConfig
from ..layout import GENERATION_CONFIG
from ..model import special_tokens
from ..model.companions import DEFAULT_TEMPLATE, Companions
from ..model.facts import Facts
from ..model.files import ModelFiles
from ..model.generation_settings import GenerationSettings, modelfile, with_defaults
from ..model.gguf.vocabulary import Vocabulary, begins_with, ends_with, vocabulary_of
from ..model.tensors import DTYPES, Tensor, check_tensors, read_tensors
from ..system.reading import read_object
from ..text.conversations import template_of
from .older_readers import portable
from .provenance import gather_facts, model_name
from .templates import for_ollama

Target = Literal["hf", "gguf", "ollama"]

_MOST_TOKENIZER_BYTES = 256 << 20
_MOST_LISTED, _MOST_NAME = 20, 100


@dataclass(frozen=True)
class Source:
    """The model that `export` writes."""

    files: ModelFiles
    config: ModelConfig
    tensors: list[Tensor]
    tokenizer: Mapping[str, Any] = field(repr=False)
    """What `tokenizer.json` says."""
    companions: Companions
    facts: Facts
    name: str

    @classmethod
    def read(cls, files: ModelFiles, model: str | Path) -> Source:
        """Read a model; DataError when something of it is damaged."""
        config = files.model_config()
        table = _symlm.parameter_table(model_shape(config))
        tensors = check_tensors(files.folder, read_tensors(files.folder), table)
        tokenizer = read_object(files.tokenizer, "tokenizer", _MOST_TOKENIZER_BYTES)
        facts, name = gather_facts(files), model_name(files, model)
        return cls(files, config, tensors, tokenizer, Companions.of(files), facts, name)

    @property
    def dtype(self) -> str:
        """The type of most bytes of the weights, as the command line names it."""
        sizes = {name: sum(t.nbytes for t in self.tensors if t.dtype == code) for name, code in DTYPES.items()}
        return max(sizes, key=lambda name: sizes[name])

    def vocabulary(self) -> Vocabulary:
        """The tokenizer as a GGUF file has it; DataError when that cannot be."""
        config = self.config
        end = next(iter(config.eos_token_ids), None)
        return vocabulary_of(self.tokenizer, self.files.tokenizer, config.vocab_size, config.bos_token_id, end)

    @cached_property
    def generation(self) -> dict[str, Any]:
        """The settings for generating, as `generation_config.json` has them."""
        return with_defaults(self.companions.generation, self.config)

    @cached_property
    def settings(self) -> GenerationSettings:
        """The same, as other formats have them; DataError for a value of another kind."""
        path = self.companions.files.get(GENERATION_CONFIG, self.files.folder / GENERATION_CONFIG)
        return GenerationSettings(self.generation, path)

    @cached_property
    def ollama_template(self) -> str | None:
        """The default chat template in Ollama's language; None where it cannot be written in that."""
        if DEFAULT_TEMPLATE not in self.companions.chat_templates:
            return None
        return for_ollama(template_of(None, self.files), self.begins())

    def modelfile(self) -> tuple[list[str], list[str]]:
        """The PARAMETER lines of a Modelfile, and the texts that no line can hold."""
        ends = [self.token(number) for number in self.config.eos_token_ids]
        return modelfile(self.settings, [end for end in ends if end is not None], self.config.seq_len)

    def token_ids(self, vocabulary: Vocabulary) -> tuple[dict[str, int], list[str]]:
        """Ids of special tokens by their keys in a GGUF file, and the names of those without a key."""
        return special_tokens.ids_for_gguf(
            self.companions, {text: number for number, text in enumerate(vocabulary.tokens)}
        )

    def token(self, number: int | None) -> str | None:
        """The text of a token; None when the tokenizer has none with this id."""
        for added in self.tokenizer.get("added_tokens") or []:
            if number is not None and isinstance(added, dict) and added.get("id") == number:
                return str(added.get("content"))
        vocab = self.tokenizer.get("model", {}).get("vocab", {})
        found = [token for token, id_ in vocab.items() if id_ == number] if isinstance(vocab, dict) else []
        return found[0] if found and number is not None else None

    def begins(self) -> str | None:
        """The token that the tokenizer itself puts before every text."""
        token = self.token(self.config.bos_token_id)
        return token if token is not None and begins_with(self.tokenizer.get("post_processor"), token) else None

    def adds_end(self) -> bool:
        """Whether the tokenizer itself puts the end-of-text token behind every text."""
        token = self.token(next(iter(self.config.eos_token_ids), None))
        return token is not None and ends_with(self.tokenizer.get("post_processor"), token)

    def left_out(self, to: Target, vocabulary: Vocabulary | None) -> tuple[str, ...]:
        """Everything that came with the model but that the format cannot hold, a sentence each."""
        if vocabulary is None:
            return tuple(portable(self.tokenizer)[1])
        where: Literal["gguf", "ollama"] = "gguf" if to == "gguf" else "ollama"
        settings = self.settings.without_place(where)
        if to == "ollama":
            settings += self.modelfile()[1]
        added = self.tokenizer.get("added_tokens") or []
        config = self.companions.tokenizer_config
        of_tokenizer = [
            *self.token_ids(vocabulary)[1], *special_tokens.not_in_gguf(config, added, len(self.config.eos_token_ids))
        ]  # fmt: skip
        sentences = []
        place = "a GGUF file" if to == "gguf" else "a folder for Ollama"
        for names, origin in ((settings, GENERATION_CONFIG), (of_tokenizer, "the tokenizer")):
            if names:
                sentences.append(f"not in {place}: {_listed(names)} (of {origin})")
        if to == "ollama" and self.companions.chat_templates:
            sentences += _about_templates(self.companions.chat_templates, self.ollama_template)
        return tuple(sentences)


def _listed(names: list[str]) -> str:
    """Names out of files, which may hold anything, on a line of some length."""
    shown = [name if name.isprintable() else ascii(name) for name in names[:_MOST_LISTED]]
    more = [f"and {len(names) - _MOST_LISTED} more"] if len(names) > _MOST_LISTED else []
    return ", ".join([*(name[:_MOST_NAME] for name in shown), *more])


def _about_templates(templates: Mapping[str, str], translated: str | None) -> list[str]:
    if DEFAULT_TEMPLATE not in templates:
        return [f"chat templates: Ollama takes the one by the name {DEFAULT_TEMPLATE}, found {_listed([*templates])}"]
    others = [name for name in templates if name != DEFAULT_TEMPLATE]
    if translated is not None:
        return [f"not in a folder for Ollama: the chat templates {_listed(others)}"] if others else []
    more = f"; it takes no other than that by the name {DEFAULT_TEMPLATE}" if others else ""
    return [
        "chat template: a Modelfile cannot hold Jinja; Ollama uses the one in model.gguf if it knows it, "
        f"else give the Modelfile a TEMPLATE{more}"
    ]
