"""A tokenizer's files for readers of other years: `tokenizers` from version 0.15 on, transformers from 4.37 on.

Only what loses nothing is rewritten: every version takes from the files what the newest took before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VERSION_LINE = "#version"
"""Readers of merges as texts pass over those that begin so: it is the first line of a `merges.txt`."""


def portable(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A `tokenizer.json` in the form that most versions read, and what keeps older ones from it, a sentence each.

    Merges become texts "left right", which versions before 0.20 expect; a Metaspace gets the field that versions
    before 0.19 need. Those ignore `ignore_merges`, for which they have no other form. `raw` stays as it is. What
    is not of the expected form is left to those who read the file.
    """
    found, notes = dict(raw), list[str]()
    model = raw.get("model")
    if isinstance(model, dict) and _has_pairs(model.get("merges")):
        texts = _as_texts(model["merges"])
        if texts is None:
            notes.append("tokenizers before 0.20 cannot read tokenizer.json: a merge has a blank inside a token")
        else:
            found["model"] = {**model, "merges": texts}
    if isinstance(model, dict) and model.get("ignore_merges") is True:
        notes.append(
            "tokenizers before 0.19 may give other ids with tokenizer.json: they do not know its ignore_merges"
        )
    for name in ("pre_tokenizer", "decoder"):
        found[name] = _with_prefix_space(raw.get(name), splits=name == "pre_tokenizer")
    if not _all_split(found["pre_tokenizer"]):
        notes.append("tokenizers before 0.19 cannot read tokenizer.json: its Metaspace does not split the text")
    return {name: found[name] for name in found if name in raw}, notes


def portable_config(config: Mapping[str, Any], template: object) -> dict[str, Any]:
    """A `tokenizer_config.json` of transformers 5 in the form that version 4 reads too; any other as it is.

    `template` is what belongs into its field `chat_template`, where version 4 looks for it; None: nothing.
    """
    found = dict(config)
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(found.get("extra_special_tokens"), list) and "additional_special_tokens" not in found:
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    if template is not None and found.get("chat_template") is None:
        found["chat_template"] = template
    return found


def _has_pairs(merges: Any) -> bool:
    return isinstance(merges, list) and any(isinstance(merge, list) for merge in merges)


def _as_texts(merges: list[Any]) -> list[str] | None:
    """The merges as texts; None where one of them would not come back as it was."""
    texts: list[str] = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        whole = isinstance(parts, list) and len(parts) == 2 and all(isinstance(p, str) and p for p in parts)
        if not whole or any(" " in part for part in parts) or parts[0].startswith(_VERSION_LINE):
            return None
        texts.append(" ".join(parts))
    return texts


def _parts(part: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The field of a sequence and its content."""
    for name in ("pretokenizers", "decoders"):
        if isinstance(part.get(name), list):
            return name, part[name]
    return "", []


def _with_prefix_space(part: Any, *, splits: bool) -> Any:
    """A part with the field that says whether a Metaspace puts a blank before a text, as versions before 0.19 have it.

    Those split the text in any case, so a pre-tokenizer that does not gets no field: they refuse it, as they should.
    """
    if not isinstance(part, dict):
        return part
    name, inner = _parts(part)
    if name:
        return {**part, name: [_with_prefix_space(item, splits=splits) for item in inner]}
    if part.get("type") != "Metaspace" or "add_prefix_space" in part or (splits and part.get("split") is False):
        return part
    return {**part, "add_prefix_space": part.get("prepend_scheme", "always") != "never"}


def _all_split(part: Any) -> bool:
    if not isinstance(part, dict):
        return True
    name, inner = _parts(part)
    if name:
        return all(_all_split(item) for item in inner)
    return part.get("type") != "Metaspace" or "add_prefix_space" in part or part.get("split") is not False
