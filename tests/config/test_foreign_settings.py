"""Settings from elsewhere that contradict each other: symlm computes what transformers does, or refuses the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import foreign_settings as cells
from conftest import Cli
from elsewhere import make_model, write_tensors
from symlm.config.model_config import ModelConfig, note_of_ends
from symlm.errors import DataError
from symlm.export.write import export
from symlm.generate.generator import Generator

TABLE: dict[str, Any] = json.loads(cells.TABLE.read_text())
PLACES = list(cells.ROPES)

AGREED = 103
"""Single cells with the same outcome here and there; fewer would mean that a model that worked is refused."""


def outcome(top: str, new: str, old: str) -> Any:
    """What transformers makes of a cell of the grid."""
    return TABLE["outcomes"][TABLE["grid"][top][PLACES.index(new)][PLACES.index(old)]]


def says_nothing(place: str) -> bool:
    """Whether a place leaves everything to the others."""
    return cells.ROPES[place] in (cells.ABSENT, None, {})


def same(a: list[float], b: list[float]) -> bool:
    """Whether frequencies are equal but for the rounding of five digits."""
    return a == pytest.approx(b, rel=2e-5)


@pytest.mark.parametrize("top", cells.TOPS)
def test_rotary_positions_of_three_places(top: str, tmp_path: Path) -> None:
    """What both places alone would give is accepted, and computed; everything else is refused."""
    for new in PLACES:
        for old in PLACES:
            alone = [outcome(top, new, "absent"), outcome(top, "absent", old)]
            if says_nothing(new) or says_nothing(old):
                alone = [outcome(top, new, old)] * 2
            known = alone[0] is not None and alone[0]["kind"] in ("default", "llama3")
            cells.write(tmp_path, cells.grid_change(top, new, old))
            found = cells.ours(tmp_path)
            assert (found is not None) == (known and alone[0] == alone[1]), (new, old)
            if found is not None:
                assert same(found["frequencies"], outcome(top, new, old)["frequencies"]), (new, old)


def test_other_settings(tmp_path: Path) -> None:
    agreed, told = 0, 0
    for change, generation, expected in TABLE["singles"]:
        cells.write(tmp_path, change, generation)
        found = cells.ours(tmp_path)
        if found is None or expected is None:
            continue
        label = f"{change} {generation}"
        assert same(found.pop("frequencies"), expected["frequencies"]), label
        # Where no token begins a text, transformers cannot generate without a prompt.
        assert expected["begin"] in (found.pop("begin"), None), label
        path = tmp_path / "config.json"
        note = note_of_ends(path, ModelConfig.from_hf(path))
        if found.pop("ends") != expected["ends"]:
            assert expected["ends"] == [], label
            assert note is not None, label
            told += 1
        else:
            assert note is None, label
            agreed += 1
        assert found == {name: expected[name] for name in ("kv_heads", "eps", "tied")}, label
    assert (agreed, told) == (AGREED, 10)


def test_the_table_has_every_cell() -> None:
    singles = [[change, generation] for change, generation, _ in TABLE["singles"]]
    assert singles == [list(cell) for cell in cells.SINGLES]
    assert [len(rows) for rows in TABLE["grid"].values()] == [len(PLACES)] * len(cells.TOPS)


def refused(folder: Path, change: dict[str, Any]) -> str:
    """The message of the error that a `config.json` gives."""
    cells.write(folder, change)
    with pytest.raises(DataError) as caught:
        ModelConfig.from_hf(folder / "config.json")
    return caught.value.message


def test_both_places_and_their_values_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    linear = {"rope_type": "linear", "factor": 2.0}
    change: dict[str, Any] = {"rope_scaling": linear, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}
    assert refused(tmp_path, change) == (
        f"{path}: rope_scaling and rope_parameters contradict each other: rope_type is 'linear' in rope_scaling and "
        "'default' in rope_parameters"
    )
    change["rope_scaling"] = {"rope_type": "default"}
    assert "rope_theta is 10000.0 in rope_scaling and 50000.0 in rope_parameters" in refused(tmp_path, change)
    change = {"rope_scaling": cells.LLAMA3, "original_max_position_embeddings": 32}
    assert "original_max_position_embeddings is 32 in the top level and 64 in rope_scaling" in refused(tmp_path, change)
    change = {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}
    assert "'default' in rope_parameters and 'yarn' in rope_parameters.full_attention" in refused(tmp_path, change)
    change = {"layer_types": ["full_attention"]}
    assert "layer_types of 1 layers (expected the 2 of num_hidden_layers)" in refused(tmp_path, change)
    change = {"num_key_value_heads": 0}
    assert "num_key_value_heads: found 0, expected a whole number from 1 to 4" in refused(tmp_path, change)


def test_a_tied_model_with_a_head(tmp_path: Path) -> None:
    """One that is the embedding again is the embedding; of another one transformers would compute with both."""
    made = make_model(tmp_path / "model", tie_embeddings=True)
    embedding = made.parameters["model.embed_tokens.weight"]
    path = made.folder / "model.safetensors"
    plain = Generator.from_pretrained(made.folder).logits([1, 2, 3])
    write_tensors(path, made.parameters | {"lm_head.weight": embedding})
    assert Generator.from_pretrained(made.folder).logits([1, 2, 3]).tobytes() == plain.tobytes()
    write_tensors(path, made.parameters | {"lm_head.weight": embedding + 1})
    for use in (Generator.from_pretrained, lambda model: export(model, "hf", str(tmp_path / "out"))):
        with pytest.raises(DataError, match=r"lm_head\.weight: found another matrix than model\.embed_") as caught:
            use(made.folder)
        assert "tie_word_embeddings" in str(caught.value.hint)
    assert not (tmp_path / "out").exists()


def test_where_nothing_names_an_end_a_note_says_so(tmp_path: Path, cli: Cli) -> None:
    """In every command; not where a file does."""
    made = make_model(tmp_path / "model")
    (tmp_path / "words.txt").write_text("the cat sat on the mat. 12 345\n" * 50)
    commands = (
        ("generate", made.folder, "--prompt", "the", "--max-new-tokens", 1),
        ("eval", made.folder, "words.txt"),
        ("export", made.folder, "--to", "hf", "--out", "out", "--force"),
        ("train", "words.txt", "--init-from", made.folder, "--max-steps", 1, "--batch-size", 2, "--seq-len", 16,
         "--sample-every", 0, "--progress", "plain", "--out-dir", "run"),
    )  # fmt: skip
    (made.folder / "generation_config.json").write_text('{"temperature": 0.5}')
    for words in commands:
        done = cli(*words)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("names no eos_token_id: a text ends at token 262 here, and nowhere in") == 1, words
    (made.folder / "generation_config.json").unlink()
    done = cli(*commands[0])
    assert "eos_token_id" not in done.stderr
