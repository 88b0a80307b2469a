"""Settings for generating and chat templates: they go where the model goes, and what is lost is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beside import metadata, noted, read, tuned, write
from conftest import Cli
from elsewhere import BEGIN, END, make_model
from symlm.errors import DataError
from symlm.export.write import export
from symlm.model.companions import Companions, hand_on
from symlm.model.generation_settings import quoted
from symlm.model.resolve import resolve_model

SETTINGS = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 50,
    "eos_token_id": END,
    "bos_token_id": BEGIN,
}
DEFAULT, TOOLS = "{{ messages }}\n", "{{ tools }}"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model folder in the manner of Llama 3."""
    return make_model(tmp_path / "source").folder


def sampling(path: Path) -> dict[str, Any]:
    """The settings for generating in a GGUF file, rounded as decimal numbers of f32."""
    found = {key.rsplit(".", 1)[1]: v for key, v in metadata(path).items() if key.startswith("general.sampling.")}
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in found.items()}


def parameters(path: Path) -> list[tuple[str, str]]:
    """The PARAMETER lines of a Modelfile, taken apart as Ollama does: a value ends with the first line at whose end its
    quotes are closed, and has no escapes."""
    found, value = [], None
    for line in path.read_text(encoding="utf-8").split("\n"):
        if value is None:
            if not line.startswith("PARAMETER "):
                continue
            _, name, value = line.split(" ", 2)
        else:
            value += "\n" + line
        stripped = value.strip(" \t\n")
        mark = next((mark for mark in ('"""', '"') if stripped.startswith(mark)), "")
        if len(stripped) >= 2 * len(mark) and stripped.endswith(mark):
            found.append((name, stripped[len(mark) : len(stripped) - len(mark)]))
            value = None
    assert value is None
    return found


# --- settings for generating ------------------------------------------------------------------------------------------


def check_settings(model: Path, folder: Path) -> None:
    """The settings of `SETTINGS` are in every export of a model, and nothing else is."""
    folder.mkdir()
    assert read(export(model, "hf", folder / "hf").path / "generation_config.json").items() >= SETTINGS.items()
    values = {"temp": 0.6, "top_p": 0.9, "top_k": 50}
    assert sampling(export(model, "gguf", folder / "m.gguf").path) == values
    ollama = export(model, "ollama", folder / "ollama").path
    assert sampling(ollama / "model.gguf") == values
    found = dict(parameters(ollama / "Modelfile"))
    del found["stop"], found["num_ctx"]
    assert found == {"temperature": "0.6", "top_p": "0.9", "top_k": "50"}


def test_settings_of_every_kind_of_model(source: Path, tmp_path: Path) -> None:
    write(source / "generation_config.json", **SETTINGS)
    check_settings(source, tmp_path / "a")
    check_settings(tmp_path / "a" / "hf", tmp_path / "b")
    check_settings(tmp_path / "a" / "m.gguf", tmp_path / "c")
    check_settings(tmp_path / "c" / "hf", tmp_path / "d")


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}], ids=["full", "lora"])
def test_settings_after_a_fine_tuning(source: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    write(source / "generation_config.json", **SETTINGS)
    run = tuned(source, tmp_path / "tuned", max_steps=4, stop_at_step=2, **changes)
    check_settings(run, tmp_path / "a")
    tuned(source, tmp_path / "tuned", max_steps=4, resume="auto", **changes)
    assert (run / "checkpoints" / "step-00000004").is_dir()
    check_settings(run, tmp_path / "b")
    check_settings(run / "checkpoints" / "step-00000002", tmp_path / "c")
    shutil.copytree(run, tmp_path / "copied")
    shutil.rmtree(run)
    check_settings(tmp_path / "copied", tmp_path / "d")


def test_settings_of_a_gguf_file_that_a_run_begins_with(source: Path, tmp_path: Path) -> None:
    write(source / "generation_config.json", **SETTINGS)
    file = export(source, "gguf", tmp_path / "m.gguf").path
    check_settings(tuned(file, tmp_path / "tuned"), tmp_path / "a")


def test_greedy_is_temperature_zero_there_and_back(source: Path, tmp_path: Path) -> None:
    write(source / "generation_config.json", do_sample=False, temperature=0.6, top_k=7, eos_token_id=END)
    done, notes = noted(source, "gguf", tmp_path / "m.gguf")
    assert sampling(done.path) == {"temp": 0.0, "top_k": 7}
    assert notes == ["not in a GGUF file: temperature 0.6 (it is 0, as do_sample is false) (of generation_config.json)"]
    assert done.left_out == tuple(notes)
    assert dict(parameters(export(source, "ollama", tmp_path / "o").path / "Modelfile"))["temperature"] == "0"
    back = read(export(done.path, "hf", tmp_path / "hf").path / "generation_config.json")
    assert back["do_sample"] is False
    assert "temperature" not in back
    assert read(export(source, "hf", tmp_path / "whole").path / "generation_config.json")["temperature"] == 0.6


def test_what_a_model_does_not_say_is_left_to_the_program(source: Path, tmp_path: Path) -> None:
    write(source / "generation_config.json", do_sample=True, top_p=0.5, top_k=None)
    assert sampling(export(source, "gguf", tmp_path / "m.gguf").path) == {"top_p": 0.5}
    names = {name for name, _ in parameters(export(source, "ollama", tmp_path / "o").path / "Modelfile")}
    assert names == {"stop", "num_ctx", "top_p"}


def test_a_model_that_says_nothing_gets_the_defaults_of_symlm(source: Path, tmp_path: Path) -> None:
    write(source / "generation_config.json", _from_model_config=True, eos_token_id=END, transformers_version="4.44.0")
    assert sampling(export(source, "gguf", tmp_path / "m.gguf").path) == {
        "temp": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05
    }  # fmt: skip
    assert read(export(source, "hf", tmp_path / "hf").path / "generation_config.json")["do_sample"] is True


def test_what_has_no_place_is_told(source: Path, tmp_path: Path) -> None:
    write(
        source / "generation_config.json", **SETTINGS, typical_p=0.9, stop_strings=["User:", 'say "x"\n\ty', "\u200b"],
        max_new_tokens=77, num_beams=4, length_penalty=1.0, suppress_tokens=[3], use_cache=True, min_p=None,
        xtc_probability=0.5, mine="x", max_length=20,
    )  # fmt: skip
    whole = read(source / "generation_config.json")
    done, notes = noted(source, "hf", tmp_path / "hf")
    assert not any("generation_config" in note for note in notes)
    assert read(done.path / "generation_config.json").items() >= whole.items()
    assert noted(source, "gguf", tmp_path / "m.gguf")[1] == [
        "not in a GGUF file: typical_p 0.9, stop_strings, max_new_tokens 77, num_beams 4, suppress_tokens, mine "
        "(of generation_config.json)"
    ]
    done, notes = noted(source, "ollama", tmp_path / "o")
    assert notes == [
        "not in a folder for Ollama: num_beams 4, suppress_tokens, xtc_probability 0.5, mine, stop '\\u200b' "
        "(of generation_config.json)"
    ]
    found = parameters(done.path / "Modelfile")
    assert [value for name, value in found if name == "stop"] == ["<|end|>", "User:", 'say "x"\n\ty']
    assert {("typical_p", "0.9"), ("num_predict", "77")} <= set(found)
    assert sampling(done.path / "model.gguf")["xtc_probability"] == 0.5


def test_the_command_tells_what_has_no_place(source: Path, cli: Cli, tmp_path: Path) -> None:
    write(source / "generation_config.json", **SETTINGS, typical_p=0.9)
    done = cli("export", source, "--to", "gguf", "--out", tmp_path / "m.gguf")
    assert done.stderr == "note: not in a GGUF file: typical_p 0.9 (of generation_config.json)\n"


def test_settings_of_llama_cpp_come_back(source: Path, tmp_path: Path) -> None:
    own = {
        "do_sample": True, "temperature": 0.7, "top_k": 0, "penalty_last_n": -1, "xtc_probability": 0.5,
        "xtc_threshold": 0.2, "mirostat": 2, "mirostat_tau": 4.5, "mirostat_eta": 0.2, "sequence": "top_k;temperature",
    }  # fmt: skip
    write(source / "generation_config.json", **own)
    file = export(source, "gguf", tmp_path / "m.gguf").path
    assert metadata(file)["general.sampling.sequence"] == "top_k;temperature"
    assert read(export(file, "hf", tmp_path / "hf").path / "generation_config.json").items() >= own.items()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", "hot", "temperature: found 'hot', expected a finite number"),
        ("top_k", 1.5, "top_k: found 1.5, expected a whole number"),
        ("top_k", 1 << 40, "expected a whole number"),
        ("do_sample", "yes", "do_sample: found 'yes', expected true or false"),
        ("stop_strings", [1], "stop_strings: found"),
        ("top_p", float("nan"), "expected a finite number"),
    ],
)
def test_damaged_settings(source: Path, tmp_path: Path, field: str, value: Any, message: str) -> None:
    write(source / "generation_config.json", **{field: value})
    for to in ("gguf", "ollama"):
        with pytest.raises(DataError, match=message):
            export(source, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.text('"\n a', min_size=1, max_size=12))
def test_texts_of_a_modelfile(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever can be written is what Ollama reads."""
    written = quoted(text)
    if written is not None and "\r" not in text:
        path = tmp_path_factory.getbasetemp() / "Modelfile"
        path.write_text(f"PARAMETER stop {written}\nPARAMETER top_k 1\n", encoding="utf-8", newline="")
        assert parameters(path) == [("stop", text), ("top_k", "1")]


# --- chat templates ---------------------------------------------------------------------------------------------------


def with_templates(layout: str, folder: Path) -> dict[str, str]:
    """Put chat templates beside a model as some version of transformers does; gives them by name."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    named = {"default": DEFAULT, "tool-use": TOOLS}
    if layout == "text":
        named, config["chat_template"] = {"default": DEFAULT}, DEFAULT
    elif layout == "list":
        config["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    elif layout == "processor":
        named = {"default": DEFAULT}
        write(folder / "chat_template.json", chat_template=DEFAULT)
    elif layout == "classless":
        named, config = {"default": DEFAULT}, {"chat_template": DEFAULT}
    else:
        # Its own file comes before what stands in the configuration.
        config["chat_template"] = "old"
        (folder / "chat_template.jinja").write_bytes(DEFAULT.replace("\n", "\r\n").encode())
        if layout == "file":
            named = {"default": DEFAULT}
        else:
            (folder / "additional_chat_templates").mkdir()
            (folder / "additional_chat_templates" / "tool-use.jinja").write_text(TOOLS)
    write(folder / "tokenizer_config.json", **config)
    return named


LAYOUTS = ["text", "list", "processor", "classless", "file", "files"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chat_templates_of_every_layout(source: Path, tmp_path: Path, layout: str) -> None:
    named = with_templates(layout, source)
    run = tuned(source, tmp_path / "tuned")
    models = [source, run, export(run, "hf", tmp_path / "hf").path]
    models.append(export(source, "gguf", tmp_path / "m.gguf").path)
    models.append(export(models[-1], "hf", tmp_path / "back").path)
    models.append(tuned(tmp_path / "m.gguf", tmp_path / "from-file"))
    for number, model in enumerate(models):
        assert Companions.of(resolve_model(model)).chat_templates == named
        values = metadata(export(model, "gguf", tmp_path / f"{number}.gguf").path)
        assert values["tokenizer.chat_template"] == DEFAULT
        assert values.get("tokenizer.chat_template.tool-use") == named.get("tool-use")
        if "tool-use" in named:
            # The library gives a list of one text as this text.
            assert values["tokenizer.chat_templates"] in ("tool-use", ["tool-use"])
    for folder in (models[2], models[4]):
        # Where version 4 of transformers looks for them.
        field = read(folder / "tokenizer_config.json")["chat_template"]
        assert field == "old" if layout in ("file", "files") and folder == models[2] else field
        assert len(field) == len(named) if isinstance(field, list) else isinstance(field, str)


def test_ollama_has_no_jinja(source: Path, tmp_path: Path) -> None:
    with_templates("files", source)
    done, notes = noted(source, "ollama", tmp_path / "o")
    assert "{{ .Prompt }}" not in (done.path / "Modelfile").read_text()
    assert len(notes) == 1
    assert notes[0].startswith("chat template: a Modelfile cannot hold Jinja; Ollama uses the one in model.gguf if")
    (source / "chat_template.jinja").unlink()
    done, notes = noted(source, "ollama", tmp_path / "p")
    assert "{{ .Prompt }}" in (done.path / "Modelfile").read_text()
    assert notes == ["chat templates: Ollama takes the one by the name default, found tool-use"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "chat_template: found a number, expected a text or a list of named ones"),
        ([3], "chat_template: found a number in the list"),
        ([{"name": "x"}], "template: found nothing, expected a text"),
        ([{"name": "", "template": "x"}], "a chat template named ''"),
        ([{"name": "x" * 257, "template": "x"}], "expected a name of 1 to 256 bytes"),
    ],
)
def test_damaged_templates(source: Path, tmp_path: Path, value: Any, message: str) -> None:
    write(source / "tokenizer_config.json", chat_template=value)
    with pytest.raises(DataError, match=message):
        export(source, "hf", tmp_path / "out")
    # Before a text is encoded.
    with pytest.raises(DataError, match=message):
        tuned(source, tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "run").exists()


def test_what_another_start_has_left_goes(source: Path, tmp_path: Path) -> None:
    with_templates("files", source)
    run = tmp_path / "run"
    run.mkdir()
    hand_on(resolve_model(source), run)
    assert (run / "additional_chat_templates" / "tool-use.jinja").is_file()
    other = make_model(tmp_path / "other").folder
    hand_on(resolve_model(other), run)
    assert sorted(path.name for path in run.iterdir()) == ["generation_config.json"]
    hand_on(None, run)
    assert not list(run.iterdir())
