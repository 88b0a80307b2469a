"""`TrainConfig`: every setting of a training, its default and its meaning. The only place where defaults live."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageError, shown
from ..units import did_you_mean, parse_duration
from .model_config import ModelConfig
from .options import Spec, convert, flag_of, option, specs
from .presets import PRESET_WITH_DATA, PRESET_WITHOUT_DATA, PRESETS, Preset

Schedule = Literal["wsd", "cosine", "linear", "constant"]
Progress = Literal["auto", "rich", "plain", "json", "off"]
OnNan = Literal["stop", "rollback", "skip"]
DataFormat = Literal["auto", "text", "completion"]

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Projections that can have an adapter, in the order of the table of parameters."""

_FROM_PRESET = "from the preset"
_MAX_STEPS = 10**9


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training. None means "from the preset" or "decided when the run starts".

    Values are checked when the object is made, together with the model shape that they imply.
    """

    # --- data -----------------------------------------------------------------------------------------------------
    data: tuple[str, ...] = option(
        (),
        Spec(
            "text to train on: files, folders, globs or - for standard input; none: the Python sources of this "
            "interpreter's standard library",
            "data",
            "paths",
            free=True,
            metavar="PATH",
        ),
    )
    val_data: tuple[str, ...] = option(
        (),
        Spec(
            "held-out text; without it --val-split cuts a part off the training text",
            "data",
            "paths",
            free=True,
            metavar="PATH",
        ),
    )
    val_split: float = option(
        0.05,
        Spec("part of the text that is held out for validation; 0: no validation", "data", "float", low=0.0, high=0.5),
    )
    text_field: str = option("text", Spec("field of a JSON object that holds the text", "data", "str"))
    data_format: DataFormat | None = option(
        None,
        Spec(
            "what a JSON object holds: a text, or a prompt and a completion, of which only the completion is learnt",
            "data",
            "choice",
            choices=("auto", "text", "completion"),
            default_text="auto: by the first line",
        ),
    )
    tokenizer: str | None = option(
        None, Spec("tokenizer.json to use instead of training one", "data", "path", free=True, metavar="PATH")
    )

    # --- model ----------------------------------------------------------------------------------------------------
    preset: str | None = option(
        None,
        Spec(
            "size of the model and start value of the learning rate",
            "model",
            "choice",
            choices=tuple(PRESETS),
            default_text=f"{PRESET_WITH_DATA}, without a PATH {PRESET_WITHOUT_DATA}",
        ),
    )
    init_from: str | None = option(
        None,
        Spec(
            "model to begin with: a run, checkpoint or model folder or a GGUF file, whose weights, shape and tokenizer "
            "are taken over",
            "model",
            "path",
            metavar="MODEL",
        ),
    )
    num_layers: int | None = option(
        None, Spec("transformer blocks", "model", "int", low=1, high=512, default_text=_FROM_PRESET)
    )
    num_heads: int | None = option(
        None,
        Spec("query heads; must divide the hidden size", "model", "int", low=1, high=1024, default_text=_FROM_PRESET),
    )
    num_kv_heads: int | None = option(
        None,
        Spec(
            "key/value heads; must divide the query heads", "model", "int", low=1, high=1024, default_text=_FROM_PRESET
        ),
    )
    hidden_size: int | None = option(
        None, Spec("width of the residual stream", "model", "int", low=2, high=65536, default_text=_FROM_PRESET)
    )
    intermediate_size: int | None = option(
        None, Spec("width inside the SwiGLU block", "model", "int", low=1, high=65536, default_text=_FROM_PRESET)
    )
    vocab_size: int | None = option(
        None,
        Spec(
            "tokens in the vocabulary: 256 bytes, <|endoftext|> and merges",
            "model",
            "int",
            low=257,
            high=1_000_000,
            default_text="from the preset, or that of --tokenizer",
        ),
    )
    seq_len: int | None = option(
        None,
        Spec(
            "tokens in a window",
            "model",
            "int",
            low=1,
            high=65536,
            aliases=("--block-size", "--context-length"),
            default_text=_FROM_PRESET,
        ),
    )
    tie_embeddings: bool | None = option(
        None, Spec("share one matrix between the embedding and the output", "model", "bool", default_text=_FROM_PRESET)
    )

    architecture: str | None = option(
        None, Spec("what a model that was taken over has besides its sizes", "model", "str", hidden=True)
    )

    # --- length of the training -----------------------------------------------------------------------------------
    max_steps: int | None = option(
        None,
        Spec(
            "updates to do; may be combined with the other limits, the first reached ends the run",
            "length",
            "int",
            low=1,
            high=_MAX_STEPS,
            default_text="600 without a PATH, else one epoch but 500 to 5,000 updates",
        ),
    )
    epochs: float | None = option(None, Spec("passes over the training tokens", "length", "float", above=0.0, high=1e6))
    max_tokens: int | None = option(
        None, Spec("training tokens to see, such as 10M", "length", "int", low=1, high=10**15)
    )
    max_time: float | None = option(
        None,
        Spec(
            "time for training, such as 25s, 10m or 2h; measured once and turned into a number of updates",
            "length",
            "duration",
            above=0.0,
            high=1e9,
            metavar="DURATION",
        ),
    )
    stop_at_step: int | None = option(
        None,
        Spec(
            "save after this update and leave; the schedule is not changed",
            "length",
            "int",
            low=1,
            high=_MAX_STEPS,
            free=True,
        ),
    )

    extend_steps: int | None = option(
        None,
        Spec(
            "updates to add to a finished wsd run: it goes on from before its decay, as if started with more updates",
            "length",
            "int",
            low=1,
            high=_MAX_STEPS,
            free=True,
        ),
    )

    # --- optimisation ---------------------------------------------------------------------------------------------
    batch_size: int = option(32, Spec("windows in one update", "optimisation", "int", low=1, high=65536))
    learning_rate: float | None = option(
        None,
        Spec(
            "peak learning rate",
            "optimisation",
            "float",
            above=0.0,
            high=100.0,
            aliases=("--lr",),
            default_text=_FROM_PRESET,
        ),
    )
    warmup_steps: int | None = option(
        None,
        Spec(
            "updates of linear warm-up",
            "optimisation",
            "int",
            low=0,
            high=_MAX_STEPS,
            default_text="100, or 5 % of the updates if fewer",
        ),
    )
    min_lr_ratio: float = option(
        0.1, Spec("last learning rate as a part of the peak", "optimisation", "float", low=0.0, high=1.0)
    )
    schedule: Schedule = option(
        "wsd",
        Spec(
            "shape of the learning rate: constant with a linear decay at the end, cosine, linear, constant",
            "optimisation",
            "choice",
            choices=("wsd", "cosine", "linear", "constant"),
        ),
    )
    decay_frac: float = option(
        0.2, Spec("part of the updates in which the wsd schedule decays", "optimisation", "float", low=0.0, high=1.0)
    )
    decay_start: int | None = option(
        None,
        Spec(
            "update at which the wsd schedule begins to decay",
            "optimisation",
            "int",
            low=0,
            high=_MAX_STEPS,
            default_text="from --decay-frac",
        ),
    )
    weight_decay: float = option(
        0.1, Spec("decoupled weight decay of the matrices", "optimisation", "float", low=0.0, high=100.0)
    )
    beta1: float = option(
        0.9, Spec("AdamW: decay of the first moment", "optimisation", "float", low=0.0, high=0.9999999)
    )
    beta2: float = option(
        0.95, Spec("AdamW: decay of the second moment", "optimisation", "float", low=0.0, high=0.9999999)
    )
    eps: float = option(
        1e-8, Spec("AdamW: added to the root of the second moment", "optimisation", "float", above=0.0, high=1.0)
    )
    grad_clip: float = option(
        1.0,
        Spec(
            "largest gradient norm; 0: no clipping",
            "optimisation",
            "float",
            low=0.0,
            high=1e9,
            aliases=("--max-grad-norm",),
        ),
    )
    seed: int = option(
        42, Spec("fixes the first weights and the order of the data", "optimisation", "int", low=0, high=2**63 - 1)
    )

    # --- adapters -------------------------------------------------------------------------------------------------
    lora_rank: int = option(
        0,
        Spec(
            "train low-rank adapters (LoRA) of this rank beside the weights of --init-from, which stay as they are; "
            "0: train the weights",
            "adapters",
            "int",
            low=0,
            high=1024,
        ),
    )
    lora_alpha: float | None = option(
        None,
        Spec(
            "the adapters count by this divided by the rank",
            "adapters",
            "float",
            above=0.0,
            high=1e6,
            default_text="twice the rank",
        ),
    )
    lora_targets: str | None = option(
        None,
        Spec(
            "projections that get an adapter, with commas: " + ", ".join(LORA_TARGETS),
            "adapters",
            "str",
            metavar="NAMES",
            default_text="all of them",
        ),
    )

    # --- machine (changes no bit of the result) -------------------------------------------------------------------
    threads: int | Literal["auto"] = option(
        "auto", Spec("worker threads", "machine", "auto_int", low=1, high=1024, free=True, metavar="auto|N")
    )
    sectors_in_flight: int | Literal["auto"] = option(
        "auto",
        Spec(
            "sectors of a batch in memory at once (1 to 12): less memory or more freedom, the same bits",
            "machine",
            "auto_int",
            low=1,
            high=12,
            free=True,
            metavar="auto|N",
        ),
    )

    # --- run ------------------------------------------------------------------------------------------------------
    out_dir: str | None = option(
        None,
        Spec("run folder", "run", "path", free=True, metavar="PATH", default_text="runs/<name of the data>-<preset>"),
    )
    resume: str | None = option(
        None,
        Spec(
            "go on with a run: auto (fresh start if there is none), last, best, or a run or checkpoint folder",
            "run",
            "path",
            free=True,
            metavar="auto|last|best|PATH",
        ),
    )
    eval_interval: int = option(
        200, Spec("updates between evaluations; 0: only at the end", "run", "int", low=0, high=_MAX_STEPS, free=True)
    )
    eval_batches: int = option(
        20, Spec("batches of held-out windows in an evaluation; 0: all", "run", "int", low=0, high=10**9, free=True)
    )
    save_interval: int | str = option(
        "10m",
        Spec(
            "updates (500) or time (10m) between checkpoints; 0: only at the end",
            "run",
            "interval",
            low=0,
            high=_MAX_STEPS,
            free=True,
            metavar="STEPS|DURATION",
        ),
    )
    keep_last: int = option(2, Spec("checkpoints to keep besides the best", "run", "int", low=1, high=10**6, free=True))
    sample_every: int = option(
        200, Spec("updates between text samples; 0: none", "run", "int", low=0, high=_MAX_STEPS, free=True)
    )
    sample_prompt: str = option("", Spec("beginning of the text samples", "run", "str", free=True))
    log_interval: int = option(
        10, Spec("updates between lines of metrics", "run", "int", low=1, high=_MAX_STEPS, free=True)
    )
    hash_interval: int = option(
        200,
        Spec(
            "updates between hashes of the weights in the metrics; 0: none", "run", "int", low=0, high=_MAX_STEPS,
            free=True,
        ),
    )  # fmt: skip
    on_nan: OnNan = option(
        "stop",
        Spec(
            "after an update whose loss or gradient norm is not finite: stop, go back to a checkpoint and leave out "
            "the updates that led there, or go on without this one",
            "run",
            "choice",
            choices=("stop", "rollback", "skip"),
            free=True,
        ),
    )
    progress: Progress = option(
        "auto",
        Spec(
            "display on standard error: live view, plain lines, json lines, or none",
            "run",
            "choice",
            choices=("auto", "rich", "plain", "json", "off"),
            free=True,
        ),
    )

    tensorboard: str | None = option(
        None,
        Spec(
            "write event files for TensorBoard into this folder; auto: into the run folder",
            "run",
            "path",
            free=True,
            metavar="auto|PATH",
        ),
    )
    trace: str | None = option(
        None,
        Spec(
            "file for a recording of the first updates after 3 of warm-up (at most 20 updates or 200,000 tasks), which "
            "ui.perfetto.dev opens",
            "run",
            "path",
            free=True,
            metavar="PATH",
        ),
    )

    def __post_init__(self) -> None:
        for name, spec in SPECS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, convert(name, spec, value))
        if self.data_format == "auto":
            object.__setattr__(self, "data_format", None)
        self._check_together()

    def _check_together(self) -> None:
        if self.extend_steps is not None:
            if self.resume is None:
                object.__setattr__(self, "resume", "auto")
            if self.resume in ("last", "best"):
                raise UsageError(
                    f"--extend-steps goes on from before the decay, not from --resume {self.resume}",
                    f"leave --resume {self.resume} out",
                )
        last = None if self.max_steps is None else self.max_steps + (self.extend_steps or 0)
        if self.stop_at_step is not None and last is not None and self.stop_at_step > last:
            raise UsageError(
                f"--stop-at-step {self.stop_at_step} is beyond --max-steps {last}",
                f"choose at most {last}, or raise --max-steps",
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
        if self.val_data and any(path == "-" for path in self.val_data) and "-" in self.data:
            raise UsageError(
                "standard input cannot be both the training text and the held-out text", "name a file for one of them"
            )
        self._check_adapters()
        self.model()

    def _check_adapters(self) -> None:
        if self.lora_targets is not None:
            names = [name.strip() for name in self.lora_targets.split(",")]
            unknown = [name for name in names if name not in LORA_TARGETS]
            if unknown:
                near = did_you_mean(unknown[0], LORA_TARGETS)
                raise UsageError(
                    f"--lora-targets: found {shown(unknown[0])}, expected some of {', '.join(LORA_TARGETS)}",
                    f"did you mean {near}?" if near else "separate the names by commas",
                )
            # One spelling for one choice.
            object.__setattr__(self, "lora_targets", ",".join(name for name in LORA_TARGETS if name in names))
        if not self.lora_rank:
            for name in ("lora_alpha", "lora_targets"):
                if getattr(self, name) is not None:
                    raise UsageError(
                        f"{flag_of(name)} is about adapters, but there are none", "give --lora-rank too, such as 8"
                    )
        elif self.init_from is None:
            raise UsageError(
                f"--lora-rank {self.lora_rank}: adapters need a model that they are added to",
                "name it with --init-from, or leave --lora-rank out",
            )

    @property
    def lora_alpha_value(self) -> float:
        """What is divided by the rank: `lora_alpha`, or twice the rank."""
        return 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha

    @property
    def lora_target_names(self) -> tuple[str, ...]:
        """The projections that have an adapter; none without `lora_rank`."""
        if not self.lora_rank:
            return ()
        return LORA_TARGETS if self.lora_targets is None else tuple(self.lora_targets.split(","))

    @property
    def preset_name(self) -> str:
        """The preset in force: the one asked for, or the default, which depends on whether there is a PATH."""
        return self.preset or (PRESET_WITH_DATA if self.data else PRESET_WITHOUT_DATA)

    @property
    def origin(self) -> str:
        """Where the model comes from, for people: its preset, or the model that it begins from."""
        return self.preset_name if self.init_from is None else f"from {Path(self.init_from).name}"

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

    def with_model(self, **changes: Any) -> TrainConfig:
        """A copy with the preset's shape and learning rate written out, and `changes` applied."""
        filled = dataclasses.replace(self, **changes)
        model = filled.model()
        shape = {name: getattr(model, name) for name in MODEL_FIELDS}
        rate = filled.learning_rate or PRESETS[filled.preset_name].learning_rate
        return dataclasses.replace(filled, preset=filled.preset_name, learning_rate=rate, **shape)

    @property
    def save_every_steps(self) -> int:
        """Updates between checkpoints, 0 when the interval is a time."""
        return self.save_interval if isinstance(self.save_interval, int) else 0

    @property
    def save_every_seconds(self) -> float | None:
        """Seconds between checkpoints, None when the interval is a number of updates."""
        return parse_duration(self.save_interval) if isinstance(self.save_interval, str) else None

    @classmethod
    def from_file(cls, path: str, **changes: Any) -> TrainConfig:
        """The configuration in a TOML file, such as `config.toml` of a run, with `changes` on top."""
        from .sources import read_toml

        return cls(**{**read_toml(path).values, **changes})


SPECS: dict[str, Spec] = specs(TrainConfig)
"""Field name -> description of every setting, in the order of the help text."""

MODEL_FIELDS = (
    "num_layers", "num_heads", "num_kv_heads", "hidden_size", "intermediate_size", "vocab_size", "seq_len",
    "tie_embeddings",
)  # fmt: skip

LIMIT_FIELDS = ("max_steps", "epochs", "max_tokens", "max_time")
"""Settings that bound the length of a run; they are resolved once to `max_steps`."""

FLAGS: dict[str, str] = {flag_of(name): name for name in SPECS} | {
    alias: name for name, spec in SPECS.items() for alias in spec.aliases
}
"""Every spelling of a flag -> field name."""
