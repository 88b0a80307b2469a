"""What stands beside a model and nothing is computed from: settings for generating, chat templates, special tokens.

It goes where the model goes: into the run that is trained from it, and from there into every export.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._symlm import MAX_VOCAB
from ..errors import DataError, UserError, reason, shown
from ..layout import (
    CHAT_TEMPLATE,
    COMPANIONS,
    GENERATION_CONFIG,
    MODEL_CONFIG,
    MORE_TEMPLATES,
    PROCESSOR_TEMPLATE,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
)
from ..system.files import write_atomic
from ..system.reading import Fields, kind, read_object, read_text
from .files import ModelFiles

DEFAULT_TEMPLATE = "default"
"""The name of the chat template that is taken where none is asked for."""

_JINJA = ".jinja"
_MOST_BYTES = 16 << 20
"""Of one file: a configuration may list thousands of tokens."""

_MOST_TEMPLATES = 64
_MOST_NAME_BYTES = 256
_TOKEN = "_token"


@dataclass(frozen=True)
class Companions:
    """What a model has beside it."""

    files: Mapping[str, Path]
    """Name in the folder of a model -> file, which may be that of the run that the model belongs to."""
    tokenizer_config: Mapping[str, Any]
    generation: Mapping[str, Any]
    """`generation_config.json`, with the token for padding of `config.json` where it names none itself."""
    vocab_size: int
    """Rows of the embedding."""
    chat_templates: Mapping[str, str]
    """Name -> template."""
    special_tokens: Mapping[str, str]
    """Name, such as `pad_token` -> text of the token."""

    @classmethod
    def of(cls, model: ModelFiles) -> Companions:
        """Those of a model; DataError for a file that is damaged."""
        files = _files(model)
        config = _object(files, TOKENIZER_CONFIG, "tokenizer configuration")
        special = {} if "added_tokens_decoder" in config else _object(files, SPECIAL_TOKENS, "map of special tokens")
        path = model.folder / MODEL_CONFIG
        shape = read_object(path, "model configuration")
        rows = Fields(path, shape, "model configuration").whole("vocab_size", 1, MAX_VOCAB)
        return cls(
            files=files,
            tokenizer_config=config,
            generation=_generation(files, shape.get("pad_token_id"), rows),
            vocab_size=rows,
            chat_templates=_chat_templates(files, config),
            # As transformers has it: a configuration that lists all tokens needs no map.
            special_tokens={**_texts_of_tokens(config), **_texts_of_tokens(special)},
        )

    def padding(self) -> dict[str, int]:
        """The token for padding, as a field of `config.json`; nothing when the model names none that it has."""
        number = self.generation.get("pad_token_id")
        return {"pad_token_id": number} if type(number) is int and 0 <= number < self.vocab_size else {}

    def copy(self, folder: Path, leave_out: tuple[str, ...] = ()) -> None:
        """Put the files into the folder of a model."""
        for name, path in self.files.items():
            if name not in leave_out:
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, folder / name)


def hand_on(model: ModelFiles | None, run: Path, chat_template: str | None = None, ends: tuple[int, ...] = ()) -> None:
    """Put what a model has beside it into the folder of a run that begins with it, for the exports of the run. A chat
    template of the run takes the place of the model's default, and `ends` that of the tokens that end a text.

    Removes what an interrupted start of another run left there. UserError when the folder cannot be written.
    """
    companions = None if model is None else Companions.of(model)
    try:
        for name in COMPANIONS:
            (run / name).unlink(missing_ok=True)
        if (run / MORE_TEMPLATES).exists():
            shutil.rmtree(run / MORE_TEMPLATES)
        texts = _texts_of(companions, ends if chat_template is not None else ())
        if chat_template is not None:
            texts[CHAT_TEMPLATE] = chat_template
        for name, text in texts.items():
            (run / name).parent.mkdir(exist_ok=True)
            write_atomic(run / name, text)
    except OSError as error:
        raise UserError(f"{run}: cannot write: {reason(error)}", "make room or check the rights") from None


def _texts_of(companions: Companions | None, ends: tuple[int, ...]) -> dict[str, str]:
    """The files of a model as a run keeps them."""
    if companions is None:
        return {}
    texts = {name: read_text(path, "description of the model", _MOST_BYTES) for name, path in companions.files.items()}
    generation = dict(companions.generation)
    if ends and generation.get("eos_token_id") is not None:
        generation["eos_token_id"] = list(ends)
    if generation:
        texts[GENERATION_CONFIG] = json.dumps(generation, indent=2, ensure_ascii=False) + "\n"
    return texts


def _files(model: ModelFiles) -> dict[str, Path]:
    found = {name: path for name in COMPANIONS if (path := model.companion(name)) is not None}
    places = [model.folder] if model.run is None else [model.folder, model.run]
    folder = next((place / MORE_TEMPLATES for place in places if (place / MORE_TEMPLATES).is_dir()), None)
    if folder is not None:
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix == _JINJA and path.is_file())
        except OSError as error:
            raise DataError(f"{folder}: cannot read the chat templates: {reason(error)}") from None
        if len(paths) > _MOST_TEMPLATES:
            raise DataError(f"{folder}: found {len(paths)} chat templates, expected at most {_MOST_TEMPLATES}")
        found |= {f"{MORE_TEMPLATES}/{path.name}": path for path in paths}
    return found


def _object(files: Mapping[str, Path], name: str, what: str) -> dict[str, Any]:
    return read_object(files[name], what, _MOST_BYTES) if name in files else {}


def _generation(files: Mapping[str, Path], padding: Any, rows: int) -> dict[str, Any]:
    own = _object(files, GENERATION_CONFIG, "generation configuration")
    whole = type(padding) is int and 0 <= padding < rows
    return {**own, "pad_token_id": padding} if whole and own.get("pad_token_id") is None else own


def _texts_of_tokens(raw: Mapping[str, Any]) -> dict[str, str]:
    """The fields that name a token, by its text or by an object with it."""
    found: dict[str, str] = {}
    for name, value in raw.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith(_TOKEN) and isinstance(text, str):
            found[name] = text
    return found


# --- chat templates ---------------------------------------------------------------------------------------------------


def _chat_templates(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a model. Separate files come before the configuration, as in transformers."""
    found = {} if CHAT_TEMPLATE not in files else {DEFAULT_TEMPLATE: _jinja(files[CHAT_TEMPLATE])}
    for name, path in files.items():
        if name.startswith(MORE_TEMPLATES):
            found[path.name.removesuffix(_JINJA)] = _jinja(path)
    if found:
        return found
    if config.get("chat_template") is not None:
        return named_templates(config["chat_template"], files[TOKENIZER_CONFIG])
    other = _object(files, PROCESSOR_TEMPLATE, "chat template").get("chat_template")
    return {} if other is None else named_templates(other, files[PROCESSOR_TEMPLATE])


def _jinja(path: Path) -> str:
    """A template in a file; every end of a line is a line feed, as transformers reads it."""
    return read_text(path, "chat template", _MOST_BYTES).replace("\r\n", "\n").replace("\r", "\n")


def named_templates(value: Any, path: Path) -> dict[str, str]:
    """The templates in a field `chat_template` of a file: one text, or a list of {name, template}; DataError
    otherwise."""
    if isinstance(value, str):
        return {DEFAULT_TEMPLATE: value}
    if isinstance(value, dict):
        value = [{"name": name, "template": template} for name, template in value.items()]
    if not isinstance(value, list):
        raise DataError(f"{path}: chat_template: found {kind(value)}, expected a text or a list of named ones")
    if len(value) > _MOST_TEMPLATES:
        raise DataError(f"{path}: found {len(value)} chat templates, expected at most {_MOST_TEMPLATES}")
    found: dict[str, str] = {}
    for item in value:
        if not isinstance(item, dict):
            raise DataError(f"{path}: chat_template: found {kind(item)} in the list, expected a name and a template")
        fields = Fields(path, item, "chat template")
        name = fields.text("name")
        if not 0 < len(name.encode("utf-8")) <= _MOST_NAME_BYTES:
            raise DataError(
                f"{path}: found a chat template named {shown(name)}, expected a name of 1 to {_MOST_NAME_BYTES} bytes"
            )
        found[name] = fields.text("template")
    return found


def as_field(templates: Mapping[str, str]) -> str | list[dict[str, str]]:
    """Templates as the field `chat_template` of a `tokenizer_config.json` that transformers reads."""
    if templates.keys() == {DEFAULT_TEMPLATE}:
        return templates[DEFAULT_TEMPLATE]
    return [{"name": name, "template": template} for name, template in templates.items()]
