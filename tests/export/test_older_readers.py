"""Exported tokenizers for older readers: another form of the file, the same ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

import symlm
from elsewhere import llama3_tokenizer, make_model, metaspace_tokenizer
from exporting import train_tiny
from symlm.export.older_readers import portable, portable_config
from symlm.export.write import export

TEXTS = ("the cat sat on the mat", " hello  world\n\n x 1234", "naïve 北京 😀 <|end|> x", "", "  lead", "\u2581the")


def metaspace(split: bool, scheme: str) -> dict[str, Any]:
    """A tokenizer that marks blanks, as newer versions write it."""
    part = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}
    raw = metaspace_tokenizer()
    raw["model"]["merges"].append(["the", "\u2581"])
    raw["model"]["vocab"]["the\u2581"] = 1 + max(raw["model"]["vocab"].values())
    return {**raw, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [part]}, "decoder": part}


def read(path: Path) -> dict[str, Any]:
    """A JSON file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def same_ids(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Both files are one tokenizer to the library of today."""
    here, there = (tokenizers.Tokenizer.from_str(json.dumps(raw)) for raw in (first, second))
    for text in TEXTS:
        ids = here.encode(text).ids
        assert there.encode(text).ids == ids
        assert there.decode(ids, skip_special_tokens=False) == here.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("raw", [llama3_tokenizer(), metaspace_tokenizer()], ids=["llama3", "metaspace"])
def test_merges_become_texts(raw: dict[str, Any]) -> None:
    before = json.dumps(raw)
    written, notes = portable(raw)
    assert json.dumps(raw) == before
    assert any("they do not know its ignore_merges" in note for note in notes) == raw["model"]["ignore_merges"]
    assert written["model"]["merges"] == [" ".join(pair) for pair in raw["model"]["merges"]]
    same_ids(raw, written)
    # What is in that form already stays as it is.
    assert portable(written) == (written, portable(raw)[1])


@pytest.mark.parametrize("pair", [["a b", "c"], ["#version", "x"], ["", "x"]])
def test_merges_that_no_text_holds_stay_pairs(pair: list[str]) -> None:
    raw = {"model": {"type": "BPE", "vocab": {}, "merges": [["t", "h"], pair]}}
    written, notes = portable(raw)
    assert written == raw
    assert len(notes) == 1
    assert notes[0].startswith("tokenizers before 0.20 cannot read tokenizer.json: ")


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_blanks_before_a_text(scheme: str) -> None:
    raw = metaspace(True, scheme)
    written, notes = portable(raw)
    assert notes == []
    part = written["pre_tokenizer"]["pretokenizers"][0]
    assert part["add_prefix_space"] is written["decoder"]["add_prefix_space"] is (scheme != "never")
    same_ids(raw, written)
    # Older versions split the text in any case, so that they would find other ids here.
    raw = metaspace(False, scheme)
    written, notes = portable(raw)
    assert written["pre_tokenizer"] == raw["pre_tokenizer"]
    assert notes == ["tokenizers before 0.19 cannot read tokenizer.json: its Metaspace does not split the text"]
    same_ids(raw, written)


parts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "merges", "decoders", "x"]), inner)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(model=st.dictionaries(st.sampled_from(["type", "merges", "vocab"]), parts) | parts, part=parts)
def test_whatever_a_file_holds(model: Any, part: Any) -> None:
    raw = {"model": model, "pre_tokenizer": part, "decoder": part}
    written, _ = portable(raw)
    assert portable(written)[0] == written
    assert (written["pre_tokenizer"], written["decoder"]) == (part, part)
    assert portable({}) == ({}, [])


def test_what_transformers_5_writes_for_version_4() -> None:
    new = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"], "padding_side": "left"}
    assert portable_config(new, "{{ messages }}") == {
        "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<x>"], "padding_side": "left",
        "chat_template": "{{ messages }}",
    }  # fmt: skip
    own = {"tokenizer_class": "LlamaTokenizerFast", "extra_special_tokens": {"a": "<a>"}, "chat_template": "x"}
    assert portable_config(own, "y") == own


def test_a_run_keeps_its_file_and_the_export_names_it(tmp_path: Path) -> None:
    run = train_tiny(tmp_path)
    folder = export(run, "hf", tmp_path / "hf").path
    written = read(folder / "tokenizer.json")
    assert all(isinstance(merge, str) for merge in written["model"]["merges"])
    assert len(written["model"]["merges"]) > 20
    same_ids(read(run / "tokenizer.json"), written)
    digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    known = read(run / "environment.json")["data"]["tokenizer_sha256"]
    facts = read(folder / "symlm.json")
    assert (facts["tokenizer_sha256"], facts["exported_tokenizer_sha256"]) == (known, digest)
    assert digest != known
    # It opens as a model, begins a run, and its export still names the file of the run.
    assert symlm.Generator.from_pretrained(folder).generate("the", max_new_tokens=2, seed=1)
    again = export(folder, "hf", tmp_path / "again").path
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert read(again / "symlm.json") == facts
    # Another tokenizer is not taken for it.
    (folder / "tokenizer.json").write_text(json.dumps(written))
    facts = read(export(folder, "hf", tmp_path / "other").path / "symlm.json")
    assert facts["tokenizer_sha256"] == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    assert "exported_tokenizer_sha256" not in facts


def test_an_export_tells_who_cannot_read_it(tmp_path: Path) -> None:
    source = make_model(tmp_path / "in", tokenizer=metaspace_tokenizer()).folder
    done = export(source, "hf", tmp_path / "out")
    assert done.left_out == (
        "tokenizers before 0.19 cannot read tokenizer.json: its Metaspace does not split the text",
    )
