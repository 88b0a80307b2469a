"""`/tokenize`, `/detokenize` and `/tokenizer_info`: a tokenizer for programs that have none of this model."""

from __future__ import annotations

from typing import Any

from .completions import checked_ids
from .fields import Request
from .forms import check_model
from .prompts import Served


def tokenize(raw: dict[str, Any], served: Served) -> dict[str, Any]:
    """Ids of a text. Special tokens that are written out in it count as such."""
    request = Request(raw, ("model", "prompt", "add_special_tokens", "return_token_strs"))
    check_model(request, served)
    ids = served.written_ids(request.text("prompt"), request.flag("add_special_tokens", True))
    strings = [served.token_text(id_) for id_ in ids] if request.flag("return_token_strs") else None
    return {"count": len(ids), "max_model_len": served.context, "tokens": ids, "token_strs": strings}


def detokenize(raw: dict[str, Any], served: Served) -> dict[str, Any]:
    """The text of ids, special tokens written out."""
    request = Request(raw, ("model", "tokens"))
    check_model(request, served)
    ids = request.value("tokens")
    if not isinstance(ids, list):
        raise request.wrong("tokens", "a list of token ids")
    return {"prompt": served.text(checked_ids(ids, served, "tokens")) if ids else ""}


def tokenizer_info(served: Served) -> dict[str, Any]:
    """Special tokens, template and limits, under the names that transformers gives them."""
    model = served.generator.model
    special = {} if served.companions is None else served.companions.special_tokens
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": served.special_text(model.bos_token_id),
        "eos_token": served.special_text(next(iter(model.eos_token_ids), None)),
        "pad_token": special.get("pad_token"),
        "unk_token": special.get("unk_token"),
        "chat_template": served.chat_template,
        "model_max_length": served.context,
        "vocab_size": served.tokenizer.vocab_size,
        "add_bos_token": served.tokenizer.marks_beginning,
    }
