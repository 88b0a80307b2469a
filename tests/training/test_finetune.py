"""`symlm finetune`: a small model learns to answer, resumes bit for bit after a stop, and takes plain text too."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
import shlex
import shutil
from pathlib import Path

import pytest

import symlm
from conftest import Cli
from elsewhere import BEGIN, END, make_model
from symlm import _symlm
from symlm.config.finetune import FINETUNE, LORA_RATE, finetune_values
from symlm.config.model_config import ModelConfig
from symlm.model.resolve import resolve_model

COLOURS = {"grass": "green", "snow": "white", "coal": "black", "blood": "red", "sky": "blue", "sand": "yellow"}


def write_examples(path: Path, count: int, seed: int) -> Path:
    """Questions for the colour of a thing, in some spellings, and their answers."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        thing = draw.choice(sorted(COLOURS))
        number = draw.randrange(100)
        lines.append(json.dumps({"prompt": f"{number}. colour of {thing}:", "completion": f" {COLOURS[thing]}"}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 60,000 weights that has seen the words but not what follows what."""
    folder = tmp_path_factory.mktemp("base")
    draw = random.Random(1)
    words = [*COLOURS, *COLOURS.values(), "colour", "of", "is", "the"]
    text = folder / "words.txt"
    text.write_text(" ".join(draw.choice(words) for _ in range(20_000)), encoding="utf-8")
    config = symlm.TrainConfig(
        preset="tiny", num_layers=2, hidden_size=48, num_heads=4, num_kv_heads=2, intermediate_size=96, vocab_size=280,
        seq_len=64, batch_size=8, max_steps=40, sample_every=0, val_split=0.0, progress="off",
        out_dir=str(folder / "m"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMLM_CACHE_DIR", str(folder / "cache"))
        return symlm.Trainer(config, data=[text]).fit().path


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMLM_CACHE_DIR", str(tmp_path / "cache"))


def test_a_small_model_learns_to_answer(base: Path, tmp_path: Path) -> None:
    """The loss on completions of held-out questions falls to a twentieth, and the model answers and then ends."""
    data, unseen = write_examples(tmp_path / "a.jsonl", 600, 2), write_examples(tmp_path / "b.jsonl", 60, 3)
    before = symlm.evaluate(base, unseen, progress="off")
    config = symlm.finetune_config(
        base, learning_rate=4e-3, epochs=8, out_dir=str(tmp_path / "run"), sample_every=0, progress="off"
    )
    run = symlm.Trainer(config, data=[data]).fit()
    after = symlm.evaluate(run.path, unseen, progress="off")
    assert after.tokens == before.tokens and after.loss < before.loss / 20
    generator = symlm.Generator.from_pretrained(run.path)
    for thing, colour in COLOURS.items():
        assert generator.generate(f"77. colour of {thing}:", temperature=0, max_new_tokens=20) == f" {colour}"
    model = json.loads((base / "checkpoints/step-00000040/config.json").read_text(encoding="utf-8"))
    tuned = json.loads((run.path / "best/config.json").read_text(encoding="utf-8"))
    assert tuned == model
    assert (run.path / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_the_command_stops_and_goes_on(base: Path, tmp_path: Path, cli: Cli) -> None:
    """Defaults of the command, its run folder, and the printed command that resumes, which ends with the same bits."""
    write_examples(tmp_path / "ask me.jsonl", 200, 4)
    words = ["finetune", base, "ask me.jsonl", "--progress", "plain", "--sample-every", 0]
    stopped = cli(*words, "--stop-at-step", 5)
    assert stopped.returncode == 0, stopped.stderr
    folder = tmp_path / "runs" / f"ask-me-{base.name}-ft"
    settings = symlm.TrainConfig.from_file(str(folder / "config.toml"))
    assert (settings.batch_size, settings.schedule, settings.learning_rate) == (8, "cosine", 2e-4)
    assert settings.data_format == "completion" and settings.init_from == str(base.absolute())
    line = next(line for line in stopped.stderr.splitlines() if "to resume: " in line)
    resumed = cli(*shlex.split(line.split("to resume: ")[1])[1:])
    assert resumed.returncode == 0 and "finished at step" in resumed.stderr, resumed.stderr
    straight = cli(*words, "--out-dir", "straight", "--threads", 1)
    assert straight.returncode == 0, straight.stderr
    last = (folder / "last").read_text(encoding="utf-8").strip()
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "straight" / last / name).read_bytes() == (folder / last / name).read_bytes()
    again = cli(*words, "--resume", "auto")
    assert again.returncode == 0 and "the run is finished" in again.stderr


def test_plain_text_works_too(base: Path, tmp_path: Path, cli: Cli, text: Path) -> None:
    """Without prompts every token is learnt; a dry run writes nothing."""
    words = ["finetune", base, text, "--max-steps", 3, "--progress", "plain"]
    planned = cli(*words, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert f"from {base.name}" in planned.stdout and not (tmp_path / "runs").exists()
    done = cli(*words)
    assert done.returncode == 0 and "finished at step 3" in done.stderr, done.stderr


def test_what_does_not_fit_is_an_error(base: Path, tmp_path: Path, cli: Cli) -> None:
    """No model, no data, data that is not there, lines that are not examples."""
    missing = cli("finetune", "nowhere", "a.jsonl")
    assert missing.returncode == 1 and "no such model" in missing.stderr
    assert cli("finetune", base).returncode == 2
    nothing = cli("finetune", base, "a.jsonl")
    assert nothing.returncode == 3 and "a.jsonl" in nothing.stderr
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n', encoding="utf-8")
    broken = cli("finetune", base, "a.jsonl")
    assert broken.returncode == 3 and "line 2: found fields" in broken.stderr
    assert "hint: each needs both" in broken.stderr
    shown = cli("finetune", "--help").stdout
    assert "--lora-rank" in shown and "--num-layers" not in shown and "--tokenizer" not in shown


def test_defaults_give_way_to_what_is_asked_for() -> None:
    """A limit takes the place of the epochs, adapters have another rate, and whatever is given stays."""
    assert finetune_values({}) == FINETUNE
    assert "epochs" not in finetune_values({"max_steps": 7})
    assert finetune_values({"lora_rank": 8})["learning_rate"] == LORA_RATE
    assert finetune_values({"lora_rank": 8, "learning_rate": 1.0})["learning_rate"] == 1.0
    assert finetune_values({"lora_rank": 0, "batch_size": 3}) == {**FINETUNE, "lora_rank": 0, "batch_size": 3}


def test_a_model_from_elsewhere_keeps_its_manners(tmp_path: Path, cli: Cli) -> None:
    """Every example begins and ends with the tokens of the model, which stays what it is in all but its weights."""
    made = make_model(tmp_path / "model")
    data = write_examples(tmp_path / "a.jsonl", 40, 5)
    run = cli("finetune", "model", "a.jsonl", "--max-steps", 2, "--progress", "plain", "--sample-every", 0)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "runs/a-model-ft"
    assert "examples: 38 in" in run.stderr and "2 held out" in run.stderr
    files = resolve_model(folder)
    tokenizer = files.load_tokenizer()
    shards = _symlm.Corpus.open([str(data)]).prepare(tokenizer, str(tmp_path), 0.0, 64, 1, None).train
    line = json.loads(data.read_text(encoding="utf-8").splitlines()[0])
    context, answer = [BEGIN, *tokenizer.encode(line["prompt"])], [*tokenizer.encode(line["completion"]), END]
    words = shards.ids(0, len(context) + len(answer) + 1, masked=True)
    assert words == [*(-1 - token for token in context), *answer, -1 - BEGIN]
    shape = ModelConfig.from_hf(files.folder / "config.json")
    assert shape == ModelConfig.from_hf(made.folder / "config.json")


def test_the_plan_of_examples_counts_their_text(base: Path, tmp_path: Path) -> None:
    """Names of fields and marks are more than half of these lines; the plan is near what the training then does."""
    data = write_examples(tmp_path / "a.jsonl", 400, 8)
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(data.read_bytes()))
    config = symlm.finetune_config(base, progress="off", sample_every=0, out_dir=str(tmp_path / "run"))
    planned = symlm.Trainer(config, data=[data]).plan()
    done = symlm.Trainer(config, data=[data]).fit()
    assert planned.updates == pytest.approx(done.step, rel=0.35)
    other = symlm.Trainer(dataclasses.replace(config, out_dir=str(tmp_path / "other")), data=[packed]).plan()
    assert other.tokens / packed.stat().st_size == pytest.approx(3 * planned.tokens / data.stat().st_size, rel=0.05)


def test_examples_by_another_name_are_told(base: Path, tmp_path: Path, cli: Cli) -> None:
    """They are one plain text, which is hardly what is meant; called .jsonl or from standard input they are not."""
    data = write_examples(tmp_path / "a.jsonl", 60, 6)
    shutil.copyfile(data, tmp_path / "a.data")
    words = ["--max-steps", 1, "--val-split", 0, "--sample-every", 0, "--progress", "plain"]
    told = "warning: a.data begins with objects of JSON, but is not called .json or .jsonl"
    assert told in cli("finetune", base, "a.data", *words).stderr
    assert told in cli("eval", base, "a.data").stderr
    piped = data.read_text(encoding="utf-8")
    for form in ([], ["--data-format", "completion"]):
        done = cli("finetune", base, "-", *form, *words, stdin=piped)
        assert done.returncode == 0 and "examples: 60 in" in done.stderr and "warning" not in done.stderr, done.stderr
    assert "begins with" not in cli("finetune", base, "a.jsonl", *words).stderr


def test_every_token_of_examples_is_not_asked_for(base: Path, tmp_path: Path, cli: Cli) -> None:
    """Every token once is a matter of texts: what to do instead is said."""
    write_examples(tmp_path / "a.jsonl", 20, 7)
    for flags in (["--per-document"], ["--stride", 4]):
        refused = cli("eval", base, "a.jsonl", *flags)
        assert refused.returncode == 2 and "hint: leave --per-document and --stride out" in refused.stderr
    write_examples(tmp_path / "b.jsonl", 1, 7)
    assert " in 1 window, " in cli("eval", base, "b.jsonl").stdout
    taken = cli("eval", base, "a.jsonl", "--per-document", "--text-field", "prompt")
    assert taken.returncode == 0 and "documents      20" in taken.stdout, taken.stderr
