"""Every cell of `foreign_settings`: symlm computes what transformers computes, or refuses the file.

`python tests/interop/test_foreign_settings.py` writes the table that the tests without transformers compare with.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import foreign_settings as cells
from elsewhere import BEGIN, END, llama3_tokenizer, metaspace_tokenizer
from symlm.errors import DataError
from symlm.generate.generator import Generator
from symlm.model.resolve import resolve_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore")]

PROMPT = [BEGIN, 5, 6, 7, 200, 31, 5, 90]
NEW = 12
LETTERS = string.ascii_letters


def rotary(folder: Path) -> dict[str, Any] | None:
    """Type and frequencies of the rotary positions that transformers makes; None: it cannot."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    try:
        made = LlamaRotaryEmbedding(transformers.AutoConfig.from_pretrained(folder))
    except Exception:
        return None
    return {"kind": made.rope_type, "frequencies": cells.digits(made.inv_freq.tolist())}


def opened(folder: Path) -> tuple[Any, dict[str, Any]]:
    """A model in transformers and what its settings have become; an exception when it does not work."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generation, shape = model.generation_config, model.config
    model.generate(torch.tensor([PROMPT]), max_new_tokens=1, do_sample=False)
    ends = generation.eos_token_id
    made = model.model.rotary_emb
    return model, {
        "frequencies": cells.digits((made.inv_freq * made.attention_scaling).tolist()),
        "kv_heads": shape.num_key_value_heads,
        "eps": shape.rms_norm_eps,
        "tied": shape.tie_word_embeddings,
        "begin": generation.bos_token_id,
        "ends": sorted(ends if isinstance(ends, list) else [] if ends is None else [ends]),
    }


def theirs(folder: Path) -> dict[str, Any] | None:
    """What transformers makes of a folder; None: it cannot."""
    try:
        return opened(folder)[1]
    except Exception:
        return None


def table(folder: Path) -> dict[str, Any]:
    """What transformers makes of every cell. The grid has a letter for each outcome, a line for each `rope_parameters`
    and a column for each `rope_scaling`."""
    known: list[Any] = []
    lines: dict[str, list[str]] = {}
    for top, new, old in cells.grid():
        cells.write(folder, cells.grid_change(top, new, old))
        outcome = rotary(folder)
        if outcome not in known:
            known.append(outcome)
        letter = LETTERS[known.index(outcome)]
        rows = lines.setdefault(top, [])
        if old == next(iter(cells.ROPES)):
            rows.append("")
        rows[-1] += letter
    weights(folder)
    singles = []
    for change, generation in cells.SINGLES:
        cells.write(folder, change, generation)
        singles.append([change, generation, theirs(folder)])
    outcomes = dict(zip(LETTERS, known, strict=False))
    return {"transformers": transformers.__version__, "outcomes": outcomes, "grid": lines, "singles": singles}


def weights(folder: Path) -> None:
    """Random weights of the shape `BASE`, and a tokenizer."""
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**cells.BASE, initializer_range=0.3))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(llama3_tokenizer()))


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)


def test_the_table_is_what_transformers_computes(tmp_path: Path) -> None:
    """And `test_foreign_settings` has compared symlm with the table."""
    assert json.loads(json.dumps(table(tmp_path))) == json.loads(cells.TABLE.read_text())


def every_accepted(folder: Path, check: Callable[[dict[str, Any], Any], None]) -> int:
    """Call `check` for every single cell whose settings symlm accepts."""
    count = 0
    for change, generation in cells.SINGLES:
        cells.write(folder, change, generation)
        if cells.ours(folder) is not None:
            check(change, generation)
            count += 1
    return count


def test_logits_and_texts_are_those_of_transformers(tmp_path: Path) -> None:
    weights(tmp_path)
    compared = 0
    only_here: list[dict[str, Any]] = []

    def check(change: dict[str, Any], generation: Any) -> None:
        nonlocal compared
        try:
            own = Generator.from_pretrained(tmp_path)
        except DataError:
            return
        if theirs(tmp_path) is None:
            only_here.append(change)
            return
        model, _ = opened(tmp_path)
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT])).logits[0].numpy()
            text = model.generate(torch.tensor([PROMPT]), max_new_tokens=NEW, do_sample=False, eos_token_id=None)
        np.testing.assert_allclose(own.logits(PROMPT), logits, atol=2e-4, err_msg=f"{change} {generation}")
        ids = text[0].tolist()
        assert np.argmax(own.logits(ids), axis=1).tolist()[len(PROMPT) - 1 : -1] == ids[len(PROMPT) :], change
        compared += 1

    accepted = every_accepted(tmp_path, check)
    print(f"\n{len(cells.SINGLES)} cells, settings accepted of {accepted}, logits and texts compared of {compared}")
    assert compared > 80
    # Two descriptions of one thing, and a field that has a meaning for the Python class alone.
    assert [list(change) for change in only_here] == [["rope_parameters", "layer_types"], ["attribute_map"]]


@pytest.mark.parametrize("kind", [llama3_tokenizer, metaspace_tokenizer])
def test_tokenizer_config_changes_no_id(kind: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    """`add_bos_token` and the like beside a `tokenizer.json` that says otherwise: the latter counts for both."""
    weights(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(cells.config({})))
    raw = kind()
    begin, end = (raw["added_tokens"][i]["content"] for i in (0, 1))
    specials = {token: {"id": token, "ids": [id_], "tokens": [token]} for token, id_ in ((begin, BEGIN), (end, END))}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    around = [{"SpecialToken": {"id": begin, "type_id": 0}}, text, {"SpecialToken": {"id": end, "type_id": 0}}]
    compared = 0
    for single in (None, [text], around[:2], around):
        post = {"type": "TemplateProcessing", "single": single, "pair": [text, text], "special_tokens": specials}
        (tmp_path / "tokenizer.json").write_text(json.dumps(raw | {"post_processor": post if single else None}))
        for tokenizer_class in (None, "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast"):
            for extra in ({}, {"add_bos_token": False}, {"add_bos_token": True}, {"add_eos_token": True},
                          {"add_prefix_space": True}, {"legacy": False}, {"model_max_length": 1}):  # fmt: skip
                own = {"bos_token": begin, "eos_token": end, "tokenizer_class": tokenizer_class, **extra}
                (tmp_path / "tokenizer_config.json").write_text(json.dumps(own))
                theirs_ids = transformers.AutoTokenizer.from_pretrained(tmp_path)("the cat")["input_ids"]
                # A prompt is continued, so what the file puts behind a text is left out.
                assert (theirs_ids[-1] == END) == (single == around), (single, own)
                expected = theirs_ids[:-1] if single == around else theirs_ids
                assert resolve_model(tmp_path).load_tokenizer().encode_prompt("the cat") == expected, (single, own)
                compared += 1
    print(f"\n{compared} cells", end="")


if __name__ == "__main__":
    import tempfile

    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as temporary:
        found = table(Path(temporary))
    lines = [f'"transformers": {json.dumps(found["transformers"])}']
    for name in ("outcomes", "grid"):
        entries = ",\n".join(
            f"{json.dumps(key)}: "
            + ("[\n" + ",\n".join(map(json.dumps, value)) + "]" if name == "grid" else json.dumps(value))
            for key, value in found[name].items()
        )
        lines.append(f'"{name}": {{\n{entries}\n}}')
    lines.append('"singles": [\n' + ",\n".join(map(json.dumps, found["singles"])) + "\n]")
    cells.TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
