"""Special tokens of a model: their ids go there and back, and what has no place is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from beside import metadata, noted, read, tuned, write
from elsewhere import BEGIN, END, STOP, llama3_tokenizer, make_model
from symlm.errors import DataError
from symlm.export.write import export
from symlm.model.companions import Companions
from symlm.model.gguf.read import unpack_gguf
from symlm.model.resolve import resolve_model


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model folder in the manner of Llama 3."""
    return make_model(tmp_path / "source").folder


def with_tokens(source: Path) -> None:
    """Give a model special tokens of every kind."""
    tokenizer = llama3_tokenizer()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    names = ["<unk>", "<sep>", "<pad>", "<mask>", "<fim>"]
    for number, text in enumerate(names, STOP + 1):
        tokenizer["added_tokens"].append({"id": number, "content": text, "special": text != "<sep>", **flags})
    tokenizer["added_tokens"][-2]["lstrip"] = True
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    write(source / "generation_config.json", eos_token_id=[END, STOP])
    mask = {"__type": "AddedToken", "content": "<mask>", **flags, "lstrip": True, "special": True}
    write(
        source / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", unk_token="<unk>",
        sep_token="<sep>", mask_token=mask, fim_pre_token="<fim>", cls_token="<|begin|>", bos_token="<|begin|>",
        eos_token="<|end|>", padding_side="left", clean_up_tokenization_spaces=False, model_max_length=64, odd=1,
    )  # fmt: skip
    write(source / "special_tokens_map.json", pad_token={"content": "<pad>", **flags}, eos_token="<|end|>")


def test_special_tokens(source: Path, tmp_path: Path) -> None:
    with_tokens(source)
    own = read(source / "tokenizer_config.json")
    ids = {
        "bos": BEGIN, "eos": END, "eot": STOP, "unknown": 264, "seperator": 265, "padding": 266, "mask": 267,
        "fim_pre": 268,
    }  # fmt: skip
    run = tuned(source, tmp_path / "tuned", lora_rank=2)
    for number, model in enumerate([source, run]):
        folder = export(model, "hf", tmp_path / f"{number}").path
        assert read(folder / "tokenizer_config.json") == own
        assert read(folder / "special_tokens_map.json") == read(source / "special_tokens_map.json")
        done, notes = noted(model, "gguf", tmp_path / f"{number}.gguf")
        assert notes == ["not in a GGUF file: padding_side, odd, lstrip of 1 added tokens (of the tokenizer)"]
        values = metadata(done.path)
        found = {key: value for key, value in values.items() if key.endswith("_token_id")}
        assert found == {f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items()}
        assert values["tokenizer.ggml.token_type"][261:270] == [3, 3, 3, 3, 4, 3, 3, 3, 5]
        back = export(done.path, "hf", tmp_path / f"{number}-back").path
        config = read(back / "tokenizer_config.json")
        assert config.items() >= {
            "unk_token": "<unk>", "sep_token": "<sep>", "pad_token": "<pad>", "mask_token": "<mask>",
            "fim_pre_token": "<fim>", "bos_token": "<|begin|>", "eos_token": "<|end|>",
        }.items()  # fmt: skip
        generation = read(back / "generation_config.json")
        assert (generation["pad_token_id"], generation["eos_token_id"]) == (266, [END, STOP])
        again = metadata(export(back, "gguf", tmp_path / f"{number}-again.gguf").path)
        assert {key: value for key, value in again.items() if key.endswith("_token_id")} == found


def test_tokens_without_a_place(source: Path, tmp_path: Path) -> None:
    write(source / "tokenizer_config.json", pad_token="<none>", cls_token="<|end|>", bos_token="<|begin|>")
    write(source / "generation_config.json", eos_token_id=[END, STOP, 1, 2, 3])
    notes = noted(source, "gguf", tmp_path / "m.gguf")[1]
    assert notes == [
        "not in a GGUF file: pad_token, cls_token, the last 2 of 5 tokens that end a text (of the tokenizer)"
    ]


def test_the_token_for_padding_of_the_shape(source: Path, tmp_path: Path) -> None:
    """Older folders name it in `config.json` alone, which a run rewrites."""
    config = read(source / "config.json")
    write(source / "config.json", **config, pad_token_id=STOP)
    (source / "generation_config.json").unlink()
    for model in (source, tuned(source, tmp_path / "tuned")):
        path = export(model, "gguf", tmp_path / f"{model.name}.gguf").path
        assert metadata(path)["tokenizer.ggml.padding_token_id"] == STOP
        folder = export(model, "hf", tmp_path / f"hf-{model.name}").path
        for name in ("config.json", "generation_config.json"):
            assert read(folder / name)["pad_token_id"] == STOP


def test_a_token_behind_every_text(source: Path, tmp_path: Path) -> None:
    tokenizer = llama3_tokenizer()
    end = {"id": "<|end|>", "ids": [END], "tokens": ["<|end|>"]}
    post = tokenizer["post_processor"]
    post["single"] = post["pair"] = [*post["single"], {"SpecialToken": {"id": "<|end|>", "type_id": 0}}]
    post["special_tokens"]["<|end|>"] = end
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    done, notes = noted(source, "gguf", tmp_path / "m.gguf")
    values = metadata(done.path)
    assert (values["tokenizer.ggml.add_bos_token"], values["tokenizer.ggml.add_eos_token"]) == (True, True)
    assert notes == [
        "tokenizer.json: puts the token that ends a text behind every text; llama.cpp does so behind a prompt"
    ]
    (tmp_path / "back").mkdir()
    unpack_gguf(done.path, tmp_path / "back")
    assert read(tmp_path / "back" / "tokenizer.json")["post_processor"]["single"] == post["single"]
    assert read(export(done.path, "hf", tmp_path / "hf").path / "tokenizer_config.json")["add_eos_token"] is True


def test_damaged_special_tokens(source: Path, tmp_path: Path) -> None:
    with_tokens(source)
    raw = export(source, "gguf", tmp_path / "m.gguf").path.read_bytes()
    key = b"tokenizer.ggml.mask_token_id"
    at = raw.index(key) + len(key) + 4
    # The type of the value, not the value: a float.
    (tmp_path / "y.gguf").write_bytes(raw[: at - 4] + (6).to_bytes(4, "little") + raw[at:])
    with pytest.raises(DataError, match=r"mask_token_id: found 3\.7.*e-43, expected a whole number"):
        resolve_model(tmp_path / "y.gguf")
    # No token, as llama.cpp takes it.
    (tmp_path / "z.gguf").write_bytes(raw[:at] + b"\xff" * 4 + raw[at + 4 :])
    named = Companions.of(resolve_model(tmp_path / "z.gguf")).special_tokens
    assert "mask_token" not in named
    assert named["sep_token"] == "<sep>"


def test_names_that_no_terminal_should_see(source: Path, tmp_path: Path) -> None:
    write(source / "tokenizer_config.json", **{"\x1b[31m": 1, "x" * 500: 1}, **{f"f{n}": 1 for n in range(30)})
    notes = noted(source, "gguf", tmp_path / "m.gguf")[1]
    assert len(notes) == 1
    assert notes[0].startswith("not in a GGUF file: '\\x1b[31m', xxx")
    assert notes[0].endswith("f17, and 12 more (of the tokenizer)")
    assert len(notes[0]) < 400


def test_a_checkpoint_outside_its_run(source: Path, tmp_path: Path) -> None:
    write(source / "tokenizer_config.json", chat_template="{{ messages }}")
    run = tuned(source, tmp_path / "tuned")
    alone = tmp_path / "alone"
    shutil.copytree(run / "checkpoints" / "step-00000001", alone)
    with pytest.raises(DataError, match=r"no tokenizer\.json beside the checkpoint"):
        export(alone, "hf", tmp_path / "out")
    shutil.copyfile(run / "tokenizer.json", alone / "tokenizer.json")
    notes = noted(alone, "hf", tmp_path / "out")[1]
    assert "alone: a checkpoint outside its run folder, which has the settings, chat templates" in notes[0]
