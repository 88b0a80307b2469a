"""Where an exported model comes from: the figures of its run and the hashes of all that made it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.model_config import ModelConfig
from ..config.sections import HOMES, INVOCATION_FIELDS
from ..config.sources import to_toml
from ..config.train_config import SPECS, TrainConfig
from ..errors import SymlmError
from ..layout import FACTS, STATE, WEIGHTS
from ..model.facts import Facts, usable_facts
from ..model.files import ModelFiles
from ..run.checkpoint import State
from ..run.folder import RunFolder
from ..run.metrics import to_document
from ..system.files import file_hash
from ..system.reading import read_object
from ..system.version import version
from ..units import format_count

WRITTEN_TOKENIZER = "exported_tokenizer_sha256"
"""The hash of an exported tokenizer.json that is not the file of `tokenizer_sha256` byte for byte."""

_MEASURES = ("val_loss", "val_bpb", "train_loss")
_HASHES = ("train_sha256", "val_sha256")
_COUNTS = ("train_tokens", "train_documents", "train_bytes")
_NOT_OF_THE_MODEL = ("machine", "run", "display")
"""Sections of settings that change no bit of a result."""

_PATHS = ("data", "val_data", "tokenizer", "init_from")


def gather_facts(files: ModelFiles) -> Facts:
    """Everything that is known about the origin of a model. Paths of this machine are cut down to names."""
    facts = _earlier(files.folder)
    if (files.folder / STATE).is_file():
        state = State.read(files.folder)
        facts |= {"step": state.step, "tokens": int(state.trainer.get("tokens", 0))}
        contract = state.engine.get("contract")
        facts |= {"contract": contract} if isinstance(contract, int) else {}
        facts |= _numbers(state.trainer, _MEASURES)
    if files.run is not None and RunFolder(files.run).exists:
        run = RunFolder(files.run)
        environment = run.environment()
        data = environment.get("data", {})
        facts |= {name: data[name] for name in _HASHES if isinstance(data.get(name), str)}
        facts |= {name: data[name] for name in _COUNTS if isinstance(data.get(name), int)}
        machine = environment.get("machine")
        if isinstance(machine, dict) and isinstance(machine.get("symlm"), str):
            facts["trained_by"] = machine["symlm"]
        facts |= _initial(environment.get("init_from"))
        facts |= _settings(run)
    if (files.folder / WEIGHTS).is_file():
        facts["weights_sha256"] = file_hash(files.folder / WEIGHTS)
    found, written = file_hash(files.tokenizer), facts.pop(WRITTEN_TOKENIZER, None)
    if found != written:
        # Otherwise it is the one that the earlier export has written, in another form, for the one that is named.
        facts["tokenizer_sha256"] = found
    facts["exported_by"] = version()
    return facts


def _earlier(folder: Path) -> Facts:
    """What an earlier export has left beside the weights."""
    path = folder / FACTS
    if not path.is_file():
        return {}
    raw = read_object(path, "description of the origin")
    return usable_facts(raw)


def _numbers(raw: Mapping[str, Any], names: tuple[str, ...]) -> Facts:
    return {name: float(raw[name]) for name in names if isinstance(raw.get(name), (int, float))}


def _initial(record: object) -> Facts:
    """The hashes of the files that training began from, as `sha256sum` prints them."""
    hashes = record.get("sha256") if isinstance(record, dict) else None
    if not isinstance(hashes, dict) or not hashes:
        return {}
    return {"init_sha256": ", ".join(f"{value} {name}" for name, value in hashes.items())}


def _settings(run: RunFolder) -> Facts:
    try:
        config = TrainConfig(**run.settings().values)
    except SymlmError:
        return {}
    names: dict[str, Any] = {}
    for name in _PATHS:
        value = getattr(config, name, None)
        if value:
            # As a `Path` it stands for itself, whatever it begins with.
            cut = [Path(Path(path).name) for path in (value if isinstance(value, tuple) else (value,))]
            names[name] = tuple(cut) if isinstance(value, tuple) else cut[0]
    lines = to_toml(replace(config, **names), {}).splitlines()
    kept = {n for n, home in HOMES.items() if home not in _NOT_OF_THE_MODEL and n not in INVOCATION_FIELDS}
    wanted = [line for line in lines if line.split(" = ", maxsplit=1)[0] in kept]
    return {"seed": config.seed, "config": "\n".join(_without_comment(line) for line in wanted) + "\n"}


def _without_comment(line: str) -> str:
    """A line of `to_toml` without its explanation."""
    name = line.split(" = ", maxsplit=1)[0]
    return line.removesuffix(f"  # {SPECS[name].help}")


def model_name(files: ModelFiles, model: str | Path) -> str:
    """A name for a model: that of its run folder, else of the folder or file itself."""
    path = Path(model) if files.run is None else files.run
    name = path.absolute().name.removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def facts_json(facts: Facts) -> str:
    """The text of `symlm.json`."""
    return to_document(facts)


_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [symlm, llama]
---

# {name}

A small Llama-architecture language model of {parameters} parameters, {made}.

| shape | |
|---|---|
{shape}

{figures}## Use it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("PATH OF THIS FOLDER")
ids = tokenizer("It was", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))
```

```console
$ symlm generate PATH_OF_THIS_FOLDER --prompt "It was"
$ symlm export PATH_OF_THIS_FOLDER --to gguf --out model.gguf    # for llama.cpp
```

The context is {seq_len} tokens. {tokens}

## Where it comes from

The same numbers are in `{facts_name}`.

{origin}
"""


def model_card(name: str, config: ModelConfig, facts: Facts, begins: str | None, ends: str | None) -> str:
    """The text of `README.md`. `begins` is the token that the tokenizer puts before a text (None: none), `ends` the
    one that ends a text."""
    shape = {
        "layers": config.num_layers,
        "heads / key and value heads": f"{config.num_heads} / {config.num_kv_heads}",
        "hidden / intermediate size": f"{config.hidden_size} / {config.intermediate_size}",
        "vocabulary": config.vocab_size,
        "context": config.seq_len,
        "embeddings": "tied" if config.tie_embeddings else "not tied",
    }
    figures = {
        "loss on held-out text": _figure(facts, "val_loss", "{:.4f} nats per token"),
        "bits per byte on held-out text": _figure(facts, "val_bpb", "{:.4f}"),
        "updates": _figure(facts, "step", "{:,}"),
        "tokens seen": _figure(facts, "tokens", "{:,}"),
    }
    table = "\n".join(f"| {what} | {value} |" for what, value in figures.items() if value is not None)
    origin = "\n".join(f"| {n} | `{v}` |" for n, v in facts.items() if n not in {"config", *_MEASURES})
    settings = f"\n\n```toml\n{facts['config']}```" if "config" in facts else ""
    starts = f"puts `{begins}` before a text" if begins else "adds no token to a text"
    stops = f"; `{ends}` ends one" if ends else ""
    return _CARD.format(
        name=name,
        parameters=format_count(config.parameters),
        made="trained on the CPU by symlm" if "step" in facts else "exported by symlm",
        shape="\n".join(f"| {what} | {value} |" for what, value in shape.items()),
        figures=f"## Figures\n\n| | |\n|---|---|\n{table}\n\n" if table else "",
        seq_len=config.seq_len,
        tokens=f"The tokenizer {starts}{stops}.",
        facts_name=FACTS,
        origin=f"| what | |\n|---|---|\n{origin}{settings}",
    )


def _figure(facts: Facts, name: str, form: str) -> str | None:
    # The facts of an earlier export may be anybody's.
    return form.format(facts[name]) if isinstance(facts.get(name), (int, float)) else None
