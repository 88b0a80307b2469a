"""Every name on disk that symlm reads or writes, in one place.

A run folder:

    RUN/
      config.toml                     every setting, resolved; makes the folder a run
      environment.json                command, machine, versions, hashes of text and tokenizer
      metrics.jsonl  samples.jsonl    one JSON object a line
      tokenizer.json
      tokenizer_config.json, ..       COMPANIONS of the model that the run began with
      checkpoints/
        step-00000600/                a checkpoint
          MANIFEST.json               sizes and hashes; written last
          model.safetensors  optimizer.safetensors  trainer_state.json  config.json
          adapter/                    with --lora-rank: the adapters in PEFT's format
            adapter_config.json  adapter_model.safetensors
      best/                           the checkpoint with the best validation
      base/                           with --lora-rank: the weights that the adapters are added to
      nan/
        step-00000123/                a checkpoint with numbers.json, batch.jsonl and config.toml beside it
      tensorboard/                    with --tensorboard auto
      last                            names the newest checkpoint
      .lock                           held by the process that trains

An exported model folder has `model.safetensors` (or several, named by an index), `config.json`, `tokenizer.json`, the
COMPANIONS and `symlm.json`; one for Ollama `model.gguf` and `Modelfile`.
"""

from __future__ import annotations

import re

# --- a run ----------------------------------------------------------------------------------------------------------

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CHECKPOINTS = "checkpoints"
BEST = "best"
BASE = "base"
BUNDLES = "nan"
TENSORBOARD = "tensorboard"
LAST = "last"
LOCK = ".lock"

TEMP_PREFIX = ".tmp-"
"""Begins the name of what is being written."""

OLD_PREFIX = ".old-"
"""Begins the name of what steps aside for its successor."""

TOKENIZER_TEMP = ".tokenizer-"
"""Begins the name of a tokenizer that is being written."""

# --- a checkpoint -----------------------------------------------------------------------------------------------------

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "trainer_state.json"
MANIFEST = "MANIFEST.json"
ADAPTER = "adapter"
"""The only folder inside a checkpoint: adapters in PEFT's format."""

ADAPTER_CONFIG = "adapter_config.json"
FACTORS = "adapter_model.safetensors"
"""In a folder of PEFT: how its factors are added to the weights of another model, and the factors."""

STEP_NAME = re.compile(r"step-([0-9]{8,15})")
"""Folder name of a checkpoint."""


def step_name(step: int) -> str:
    """Folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


# --- a bundle: an update whose numbers were not finite ----------------------------------------------------------------

NUMBERS = "numbers.json"
BATCH = "batch.jsonl"

# --- a model folder ---------------------------------------------------------------------------------------------------

MODEL_CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS_INDEX = "model.safetensors.index.json"
"""Names the file of each tensor where there are several."""

GENERATION_CONFIG = "generation_config.json"
"""May name more tokens that end a text."""

TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
CHAT_TEMPLATE = "chat_template.jinja"
PROCESSOR_TEMPLATE = "chat_template.json"
COMPANIONS = (
    TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, CHAT_TEMPLATE, PROCESSOR_TEMPLATE, GENERATION_CONFIG,
)  # fmt: skip
"""Files that change no logit; they go where the model goes."""

FACTS = "symlm.json"
"""In an exported folder: where the model comes from, for the next export and for other programs."""

MORE_TEMPLATES = "additional_chat_templates"
"""A folder beside a model with further chat templates, `NAME.jinja`."""

GGUF_NAME = "model.gguf"
MODELFILE = "Modelfile"
