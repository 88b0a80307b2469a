"""The settings of a training run, a dataclass for each section, and the tables that are made from them.

A setting is a field: its default and its description. The flags, the variables, the TOML file, the checks, the help
and `docs/settings.md` all follow from the tables.
"""

from __future__ import annotations

from ..options import Section, Spec, flag_of, specs
from .adapters import LORA_TARGETS, AdapterSettings
from .chat import ChatSettings, TrainOn
from .corpus import CHAT_FORMATS, Attend, CorpusSettings, DataFormat
from .display import DisplaySettings, Progress
from .learning import LearningSettings, Schedule
from .length import LengthSettings
from .machine import MachineSettings
from .optimizer import OptimizerSettings
from .run import OnNan, RunSettings
from .shape import ShapeSettings

__all__ = [
    "CHAT_FORMATS", "FLAGS", "HOMES", "INVOCATION_FIELDS", "LIMIT_FIELDS", "LORA_TARGETS", "MODEL_FIELDS",
    "REQUEST_FIELDS", "SECTIONS", "SPECS", "AdapterSettings", "Attend", "ChatSettings", "CorpusSettings", "DataFormat",
    "DisplaySettings", "LearningSettings", "LengthSettings", "MachineSettings", "OnNan", "OptimizerSettings",
    "Progress", "RunSettings", "Schedule", "ShapeSettings", "TrainOn",
]  # fmt: skip

SECTIONS: dict[str, type[Section]] = {
    "corpus": CorpusSettings,
    "chat": ChatSettings,
    "shape": ShapeSettings,
    "length": LengthSettings,
    "learning": LearningSettings,
    "optimizer": OptimizerSettings,
    "adapters": AdapterSettings,
    "machine": MachineSettings,
    "run": RunSettings,
    "display": DisplaySettings,
}
"""Attribute of `TrainConfig` -> its dataclass, in the order of the help text and of the TOML file."""

SPECS: dict[str, Spec] = {name: spec for section in SECTIONS.values() for name, spec in specs(section).items()}
"""Field name -> description of every setting, in the order of the help text."""

HOMES: dict[str, str] = {name: section for section, cls in SECTIONS.items() for name in specs(cls)}
"""Field name -> the section that it is in."""

FLAGS: dict[str, str] = {flag_of(name): name for name in SPECS} | {
    alias: name for name, spec in SPECS.items() for alias in spec.aliases
}
"""Every spelling of a flag -> field name."""

MODEL_FIELDS = (
    "num_layers", "num_heads", "num_kv_heads", "hidden_size", "intermediate_size", "vocab_size", "seq_len",
    "tie_embeddings",
)  # fmt: skip

LIMIT_FIELDS = ("max_steps", "epochs", "max_tokens", "max_time")
"""Settings that bound the length of a run; they are resolved once to `max_steps`."""

REQUEST_FIELDS = (*LIMIT_FIELDS, "warmup_steps", "decay_start")
"""What the `requested` table of a resolved file may hold."""

INVOCATION_FIELDS = ("out_dir", "resume", "stop_at_step", "extend_steps", "trace")
"""Settings of one call rather than of a run; the file of a run does not hold them, so it can start another run."""
