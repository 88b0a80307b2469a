"""Settings for generating that come with a model: where each goes in a GGUF file and in Ollama's Modelfile.

The names are those of `generation_config.json`. What a model does not say is not written: the program that runs it has
defaults for that. A model that says nothing at all gets the defaults of `symlm generate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config.model_config import ModelConfig
from ..config.sampling import Sampling
from ..errors import shown
from ..system.reading import Fields
from .tensors import decimal

SAMPLING_PREFIX = "general.sampling."
"""Begins the keys of GGUF metadata that programs take as their defaults."""

Kind = Literal["number", "whole", "text"]
_MOST_WHOLE = (1 << 31) - 1
_WHAT = "generation configuration"


@dataclass(frozen=True)
class _Setting:
    """Where a setting goes; None: the format has no place for it."""

    kind: Kind
    gguf: str | None
    """The key behind `SAMPLING_PREFIX`."""
    ollama: str | None
    """The name behind PARAMETER."""
    off: float | None = None
    """The value that changes nothing."""


SETTINGS: dict[str, _Setting] = {
    "temperature": _Setting("number", "temp", "temperature", 1.0),
    "top_k": _Setting("whole", "top_k", "top_k", 0),
    "top_p": _Setting("number", "top_p", "top_p", 1.0),
    "min_p": _Setting("number", "min_p", "min_p", 0.0),
    "typical_p": _Setting("number", None, "typical_p", 1.0),
    "repetition_penalty": _Setting("number", "penalty_repeat", "repeat_penalty", 1.0),
    "presence_penalty": _Setting("number", None, "presence_penalty", 0.0),
    "frequency_penalty": _Setting("number", None, "frequency_penalty", 0.0),
    "penalty_last_n": _Setting("whole", "penalty_last_n", "repeat_last_n"),
    "xtc_probability": _Setting("number", "xtc_probability", None, 0.0),
    "xtc_threshold": _Setting("number", "xtc_threshold", None),
    "mirostat": _Setting("whole", "mirostat", None, 0),
    "mirostat_tau": _Setting("number", "mirostat_tau", None),
    "mirostat_eta": _Setting("number", "mirostat_eta", None),
    "sequence": _Setting("text", "sequence", None),
    "max_new_tokens": _Setting("whole", None, "num_predict"),
}
"""Besides these: `do_sample` false is temperature 0, `stop_strings` are Ollama's `stop`, and ids of tokens are with the
tokenizer. The names that transformers does not have are llama.cpp's, which its converter reads there too."""

_SAMPLES = ("temperature", "top_k", "top_p", "min_p")
"""A GGUF file that has one of them wants the next token drawn."""

_IDS = {"bos_token_id", "eos_token_id", "pad_token_id"}

_NOT_OF_THE_TEXT = {
    "transformers_version", "_from_model_config", "_commit_hash", "use_cache", "cache_implementation", "cache_config",
    "max_cache_len", "prefill_chunk_size", "compile_config", "disable_compile", "low_memory", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "return_legacy_cache", "is_assistant", "use_mtp", "speculation_type", "continuous_batching_config",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_early_exit",
    "assistant_lookbehind", "target_lookbehind", "prompt_lookup_num_tokens", "max_matching_ngram_size",
}  # fmt: skip
"""How transformers works and not what it generates."""

_OFF: dict[str, Any] = {
    "max_length": 20, "min_length": 0, "num_beams": 1, "num_beam_groups": 1, "early_stopping": False,
    "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "diversity_penalty": 0.0,
    "encoder_repetition_penalty": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "guidance_scale": 1.0,
    "remove_invalid_values": False, "renormalize_logits": False, "token_healing": False, "stop_strings": [],
}  # fmt: skip
"""The values with which the other settings of transformers change nothing."""


def with_defaults(own: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """The `generation_config.json` to write: `own` is what came with the model, which is kept whole.

    Where it says nothing about generating there are the defaults of `symlm generate`; tokens that it does not name are
    the model's, and the token for padding is then the one that ends a text.
    """
    said = any(value is not None and name not in _IDS | _NOT_OF_THE_TEXT for name, value in own.items())
    usual = {name: getattr(Sampling, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    settings = {"do_sample": True, **usual}
    shape = config.to_hf()
    tokens = {name: shape[name] for name in ("bos_token_id", "eos_token_id")}
    padding = {"pad_token_id": config.eos_token_ids[0]} if config.eos_token_ids else {}
    named = {name: value for name, value in own.items() if value is not None or name not in _IDS}
    return {**({} if said else settings), **padding, **tokens, **named}


class GenerationSettings:
    """Settings of one model as the formats have them; DataError for a value that is of another kind."""

    def __init__(self, raw: Mapping[str, Any], path: Path) -> None:
        given = {name: value for name, value in raw.items() if value is not None}
        self._raw = given
        self._fields = Fields(path, given, _WHAT)
        self._greedy = "do_sample" in given and not self._fields.flag("do_sample")
        self._values: dict[str, str | int | float] = {
            name: self._value(name, setting.kind) for name, setting in SETTINGS.items() if name in given
        }
        if self._greedy:
            self._values = {**self._values, "temperature": 0}
        self.stops = self._stops()

    def _value(self, name: str, kind: Kind) -> str | int | float:
        if kind == "text":
            return self._fields.text(name)
        if kind == "whole":
            return self._fields.whole(name, -_MOST_WHOLE, _MOST_WHOLE)
        return self._fields.number(name)

    def _stops(self) -> list[str]:
        """Texts that end the generated text."""
        stops = self._raw.get("stop_strings", [])
        stops = [stops] if isinstance(stops, str) else stops
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            self._fields.text("stop_strings")
        return [stop for stop in stops if stop]

    def gguf(self) -> dict[str, str | int | float]:
        """Keys of GGUF metadata: texts, and numbers that are whole where llama.cpp has them so."""
        places = ((setting, self._values[name]) for name, setting in SETTINGS.items() if name in self._values)
        return {
            SAMPLING_PREFIX + setting.gguf: float(value) if setting.kind == "number" else value
            for setting, value in places
            if setting.gguf is not None
        }

    def ollama(self) -> dict[str, str]:
        """Names and values of PARAMETER lines; the texts that end an answer are in `stops`."""
        return {
            setting.ollama: json.dumps(self._values[name])
            for name, setting in SETTINGS.items()
            if setting.ollama is not None and name in self._values
        }

    def without_place(self, where: Literal["gguf", "ollama"]) -> list[str]:
        """What the format cannot hold of the settings that change a text, each as a line would name it."""
        left = []
        if self._greedy and self._raw.get("temperature", 1.0) not in (0, 1.0):
            left.append(f"temperature {_brief(self._raw['temperature'])} (it is 0, as do_sample is false)")
        for name, value in self._raw.items():
            setting = SETTINGS.get(name)
            if name in _IDS | _NOT_OF_THE_TEXT | {"do_sample"} or (name == "stop_strings" and where == "ollama"):
                continue
            off = _OFF.get(name) if setting is None else setting.off
            if value == off or (setting is not None and getattr(setting, where) is not None):
                continue
            left.append(f"{name} {_brief(value)}".rstrip())
        return left


def _brief(value: Any) -> str:
    """A value for a message; nothing for a long one."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (bool, int, float)) else ""


def from_gguf(metadata: Fields) -> dict[str, Any]:
    """The settings in the metadata of a GGUF file, under the names of `generation_config.json`; DataError for a value
    of another kind."""
    found: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        key = f"{SAMPLING_PREFIX}{setting.gguf}"
        if setting.gguf is None or key not in metadata:
            continue
        if setting.kind == "text":
            found[name] = metadata.text(key)
        elif setting.kind == "whole":
            found[name] = metadata.whole(key, -_MOST_WHOLE, _MOST_WHOLE)
        else:
            found[name] = decimal(metadata.number(key))
    if any(name in found for name in _SAMPLES):
        found = {"do_sample": True, **found}
    if found.get("temperature", 1) <= 0:
        found["do_sample"] = False
        del found["temperature"]
    if "top_k" in found:
        found["top_k"] = max(found["top_k"], 0)
    return found


# --- Modelfile --------------------------------------------------------------------------------------------------------


def quoted(text: str) -> str | None:
    """A text as a value in a Modelfile, which knows no escapes; None when it cannot be written there."""
    if not all(c.isprintable() or c in "\n\r\t " for c in text) or '"""' in text:
        return None
    return f'"""{text}"""' if any(c in text for c in '"\n\r') else f'"{text}"'


def modelfile(settings: GenerationSettings, ends: list[str], context: int) -> tuple[list[str], list[str]]:
    """PARAMETER lines, and the texts among `ends` and the model's own that no line can hold.

    `ends` are the tokens that end a text, `context` is the length of the window in tokens.
    """
    lines, left = [], []
    for stop in dict.fromkeys([*ends, *settings.stops]):
        text = quoted(stop)
        if text is None:
            left.append(f"stop {shown(stop)}")
        else:
            lines.append(f"PARAMETER stop {text}")
    lines.append(f"PARAMETER num_ctx {context}")
    lines += [f"PARAMETER {name} {value}" for name, value in settings.ollama().items()]
    return lines, left
