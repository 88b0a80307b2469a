"""`TrainConfig`: every setting of a training run, checked together."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, shown
from ..units import did_you_mean
from .model_config import ModelConfig
from .options import Section, specs
from .presets import PRESET_WITH_DATA, PRESET_WITHOUT_DATA, PRESETS, Preset
from .sections import (
    CHAT_FORMATS,
    FLAGS,
    LIMIT_FIELDS,
    LORA_TARGETS,
    MODEL_FIELDS,
    SECTIONS,
    SPECS,
    AdapterSettings,
    Attend,
    ChatSettings,
    CorpusSettings,
    DataFormat,
    DisplaySettings,
    LearningSettings,
    LengthSettings,
    MachineSettings,
    OnNan,
    OptimizerSettings,
    Progress,
    RunSettings,
    ShapeSettings,
)
from .toml import read_toml

__all__ = [
    "CHAT_FORMATS", "FLAGS", "LIMIT_FIELDS", "LORA_TARGETS", "MODEL_FIELDS", "SPECS", "Attend", "DataFormat", "OnNan",
    "Progress", "TrainConfig",
]  # fmt: skip

if TYPE_CHECKING:

    @dataclass(frozen=True, kw_only=True)
    class _Flat(
        CorpusSettings, ChatSettings, ShapeSettings, LengthSettings, LearningSettings, OptimizerSettings,
        AdapterSettings, MachineSettings, RunSettings, DisplaySettings,
    ):  # fmt: skip
        """What a type checker sees: the settings of all sections, as arguments and as attributes of `TrainConfig`."""

else:

    class _Flat:
        """What happens: everything that a section has can be read from the whole."""

    for _section, _cls in SECTIONS.items():
        for _name, _found in inspect.getmembers(_cls):
            if isinstance(_found, property):
                setattr(_Flat, _name, property(attrgetter(f"{_section}.{_name}"), doc=_found.__doc__))
        for _name, _spec in specs(_cls).items():
            setattr(_Flat, _name, property(attrgetter(f"{_section}.{_name}"), doc=_spec.help))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Flat):
    """Settings of one training run. None means "from the preset" or "decided when the run starts".

    A setting is an argument by itself, and can be read from here and from its section: `TrainConfig(beta1=0.8)` has
    `config.beta1` and `config.optimizer.beta1`. Sections are arguments too; settings beside them count more.

    Values are checked when the object is made, together with the model shape that they imply.
    """

    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    shape: ShapeSettings = field(default_factory=ShapeSettings)
    length: LengthSettings = field(default_factory=LengthSettings)
    learning: LearningSettings = field(default_factory=LearningSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    adapters: AdapterSettings = field(default_factory=AdapterSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    run: RunSettings = field(default_factory=RunSettings)
    display: DisplaySettings = field(default_factory=DisplaySettings)

    if not TYPE_CHECKING:

        def __init__(self, **given: Any) -> None:
            for name in given:
                if name not in SPECS and name not in SECTIONS:
                    near = did_you_mean(name, [*SPECS, *SECTIONS])
                    hint = f", did you mean {near}?" if near else ""
                    raise TypeError(f"TrainConfig has no setting {name!r}{hint}")
            for name, cls in SECTIONS.items():
                own = {setting: given[setting] for setting in specs(cls) if setting in given}
                object.__setattr__(self, name, _section(name, cls, given.get(name), own))
            self._check_together()

        __signature__ = inspect.Signature(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=spec.default)
            for name, spec in SPECS.items()
        )

    def _check_together(self) -> None:
        if self.extend_steps is not None:
            if self.resume is None:
                object.__setattr__(self, "run", dataclasses.replace(self.run, resume="auto"))
            if self.resume in ("last", "best"):
                raise UsageError(
                    f"--extend-steps resumes from before the decay, not from --resume {self.resume}",
                    f"leave --resume {self.resume} out",
                )
        if self.warmup_steps is not None and self.max_steps is not None and self.warmup_steps > self.max_steps:
            raise UsageError(
                f"--warmup-steps {self.warmup_steps} is more than --max-steps {self.max_steps}",
                "leave --warmup-steps out: it follows the number of updates",
            )
        if self.decay_start is not None and self.max_steps is not None and self.decay_start > self.max_steps:
            raise UsageError(
                f"--decay-start {self.decay_start} is beyond --max-steps {self.max_steps}",
                "leave --decay-start out: it follows from --decay-frac",
            )
        if self.lora_rank and self.init_from is None:
            raise UsageError(
                f"--lora-rank {self.lora_rank}: adapters need a model that they are added to",
                "name it with --init-from, or leave --lora-rank out",
            )
        if self.lora_rank and self.embedding_lr_ratio != 1.0:
            raise UsageError(
                f"--embedding-lr-ratio {self.embedding_lr_ratio:g}: adapters leave the embedding as it is",
                "leave one of --embedding-lr-ratio and --lora-rank out",
            )
        # A shape that cannot be is an error now.
        _ = self.model

    @property
    def preset_name(self) -> str:
        """The preset in force: the one asked for, or the default, which depends on whether there is a PATH."""
        return self.preset or (PRESET_WITH_DATA if self.data else PRESET_WITHOUT_DATA)

    @property
    def origin(self) -> str:
        """Where the model comes from, for display: its preset, or the model that it begins from."""
        return self.preset_name if self.init_from is None else f"from {Path(self.init_from).name}"

    @property
    def model(self) -> ModelConfig:
        """The model shape: the preset with the overrides of this configuration, checked."""
        preset: Preset = PRESETS[self.preset_name]

        def pick(name: str) -> Any:
            value = getattr(self, name)
            return getattr(preset, name) if value is None else value

        kv_heads = self.num_kv_heads
        if kv_heads is None:
            # A preset without grouped heads stays so when only the number of heads is changed.
            kv_heads = pick("num_heads") if preset.num_kv_heads == preset.num_heads else preset.num_kv_heads
        model = ModelConfig(
            vocab_size=pick("vocab_size"),
            hidden_size=pick("hidden_size"),
            intermediate_size=pick("intermediate_size"),
            num_layers=pick("num_layers"),
            num_heads=pick("num_heads"),
            num_kv_heads=kv_heads,
            seq_len=pick("seq_len"),
            tie_embeddings=pick("tie_embeddings"),
        )
        return model if self.architecture is None else model.with_other(self.architecture)

    @property
    def adapted(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of each projection that has an adapter, in the order of the table of parameters; empty
        where the weights are trained."""
        model = self.model
        hidden, inner, kv = model.hidden_size, model.intermediate_size, model.num_kv_heads * model.head_dim
        sides = {
            "q_proj": (hidden, hidden), "k_proj": (hidden, kv), "v_proj": (hidden, kv), "o_proj": (hidden, hidden),
            "gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden),
        }  # fmt: skip
        return model.num_layers * tuple(sides[name] for name in self.lora_target_names)

    @property
    def adapter_parameters(self) -> int:
        """Floats in all adapters of a run; 0 where the weights are trained."""
        return self.lora_rank * sum(map(sum, self.adapted))

    def with_model(self, **changes: Any) -> TrainConfig:
        """A copy with the preset's shape and learning rate written out, and `changes` applied."""
        filled = dataclasses.replace(self, **changes)
        model = filled.model
        shape = {name: getattr(model, name) for name in MODEL_FIELDS}
        rate = filled.learning_rate or PRESETS[filled.preset_name].learning_rate
        return dataclasses.replace(filled, preset=filled.preset_name, learning_rate=rate, **shape)

    def values(self) -> dict[str, Any]:
        """Every setting by its name."""
        return {name: getattr(self, name) for name in SPECS}

    @classmethod
    def from_file(cls, path: str, **changes: Any) -> TrainConfig:
        """The configuration in a TOML file, such as `config.toml` of a run, with `changes` on top."""
        return cls(**{**read_toml(path).values, **changes})


def _section(name: str, cls: type[Section], given: object, own: dict[str, Any]) -> Section:
    """A section from its settings, on top of those of `given` if it was given as a whole."""
    if given is None:
        return cls(**own)
    if not isinstance(given, cls):
        raise UsageError(f"{name}: expected {cls.__name__}, found {shown(given)}")
    return dataclasses.replace(given, **own) if own else given  # type: ignore[type-var]
