"""An adapter folder of PEFT as a model: its low-rank factors are added to the weights of its base.

    adapter_config.json         scale, rank, and where the base is
    adapter_model.safetensors   base_model.model.{module}.lora_A.weight and .lora_B.weight

The result is that of D1 in the contract, bit for bit.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._symlm import MAX_WIDTH
from ..errors import DataError, UserError, reason, shown
from ..layout import ADAPTER_CONFIG, BASE, COMPANIONS, FACTORS, MODEL_CONFIG, STATE, TOKENIZER, WEIGHTS
from ..run.checkpoint import State
from ..run.folder import run_of_checkpoint
from ..system.files import file_hash
from ..system.reading import Fields, read_object
from .tensors import Outgoing, Tensor, outgoing, read_header, read_tensors, write_tensors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .files import ModelFiles
    from .tensors import Bytes, Floats

_PREFIX = "base_model.model."
_WHAT = "adapter configuration"
_MERGED_ROWS = 256
"""Rows of a matrix that are computed at once, in 64 bits."""

_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to draw the first factors that leave the base as it is."""

_READ = (
    "alpha_pattern", "base_model_name_or_path", "bias", "exclude_modules", "init_lora_weights", "layers_to_transform",
    "lora_alpha", "peft_type", "r", "rank_pattern", "target_modules", "task_type", "use_rslora",
)  # fmt: skip
_WITHOUT_EFFECT = (
    "auto_mapping", "corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "lora_dropout", "lora_ga_config", "loftq_config", "megatron_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config",
)  # fmt: skip
"""Settings that change nothing in a Llama model once it is trained. `fan_in_fan_out` is for layers of another kind."""


@dataclass(frozen=True)
class Factors:
    """The adapter of one module: `scale` times B times A is added to its weight."""

    a: Tensor
    """Shape [rank, inputs]."""
    b: Tensor
    """Shape [outputs, rank]."""
    scale: float

    def merge(self, base: Tensor) -> Bytes:
        """The weight with the adapter, as bytes of float32."""
        import numpy as np

        merged = merge(base.floats(), self.a.floats(), self.b.floats(), self.scale)
        return np.ascontiguousarray(merged, dtype="<f4").reshape(-1).view(np.uint8)


def find_base(folder: Path) -> Path:
    """Where the base of an adapter folder is: that of the run which the folder lies in, else what `adapter_config.json`
    names, as a path from the folder or from the working directory. UserError when none is found."""
    run = run_of_checkpoint(folder.parent) if (folder.parent / STATE).is_file() else None
    if run is not None and (run / BASE).is_dir():
        return run / BASE
    path = folder / ADAPTER_CONFIG
    named = read_object(path, _WHAT).get("base_model_name_or_path")
    found = f"found {shown(named)}" if named else "found none"
    if isinstance(named, str) and named and "\0" not in named:
        for place in (folder.absolute() / named, Path(named)):
            if place.exists():
                return place
    raise UserError(
        f"{path}: base_model_name_or_path: {found}, expected the path of the model that the adapter was trained on",
        "nothing is downloaded: write the path there, from the adapter folder or from the working directory",
    )


def unpack_adapter(path: Path, base: ModelFiles, folder: Path) -> None:
    """Write the model that an adapter folder and its base give into the empty `folder`, in f32, with the files that go
    with them; those of the adapter folder come first.

    DataError for an adapter that is damaged, of another base, or not computed here; UserError when the folder cannot be
    written.
    """
    _check_same_base(path, base)
    weights = read_tensors(base.folder)
    factors = _read_factors(path, weights, base.model_config().tie_embeddings)
    tensors = [_outgoing(tensor, factors.get(name.removesuffix(".weight"))) for name, tensor in weights.items()]
    try:
        shutil.copyfile(base.folder / MODEL_CONFIG, folder / MODEL_CONFIG)
        for name in (TOKENIZER, *COMPANIONS):
            otherwise = base.tokenizer if name == TOKENIZER else base.companion(name)
            source = path / name if (path / name).is_file() else otherwise
            if source is not None:
                shutil.copyfile(source, folder / name)
        with (folder / WEIGHTS).open("wb") as file:
            write_tensors(file, tensors)
    except OSError as error:
        raise UserError(f"{folder}: cannot unpack {path}: {reason(error)}", "make room, or set TMPDIR") from None


def _outgoing(base: Tensor, factors: Factors | None) -> Outgoing:
    if factors is None:
        return outgoing(base, "F32")
    return Outgoing(base.name, "F32", base.shape, lambda: factors.merge(base))


def _check_same_base(path: Path, base: ModelFiles) -> None:
    """DataError when a checkpoint here knows the weights that its adapters were trained on, and these are others."""
    if not (path.parent / STATE).is_file():
        return
    known = State.read(path.parent).engine.get("base_sha256")
    if known is not None and base.weights.name == WEIGHTS and file_hash(base.weights) != known:
        raise DataError(
            f"{base.weights}: not the weights that the adapters of {path} were trained on (their sha256 differs)",
            "put back the base of the run",
        )


def _read_factors(path: Path, weights: Mapping[str, Tensor], tied: bool) -> dict[str, Factors]:
    """Module -> its factors; every tensor of the file is used, or there is an error."""
    settings = read_object(path / ADAPTER_CONFIG, _WHAT)
    _check_settings(path / ADAPTER_CONFIG, settings)
    file = path / FACTORS
    if not file.is_file():
        raise DataError(f"{file}: missing from the adapter", "PEFT writes it: save_pretrained(..)")
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_header(file).items():
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name.removeprefix(_PREFIX))
        if not match or f"{match[1]}.weight" not in weights or (tied and match[1] == "lm_head"):
            raise DataError(
                f"{file}: tensor {shown(name)} is not a factor of a matrix of the base",
                "adapters of linear layers can be merged; not embeddings, tied heads or whole modules",
            )
        halves.setdefault(match[1], {})[match[2]] = tensor
    return {
        module: _factors(path, settings, module, pair, weights[f"{module}.weight"]) for module, pair in halves.items()
    }


def _factors(path: Path, settings: Mapping[str, Any], module: str, pair: Mapping[str, Tensor], base: Tensor) -> Factors:
    a, b = pair.get("A"), pair.get("B")
    if a is None or b is None or len(base.shape) != 2:
        raise DataError(f"{path / FACTORS}: {module}: found one factor, expected lora_A and lora_B of a matrix")
    fields = Fields(path / ADAPTER_CONFIG, settings, _WHAT)
    rank = a.shape[0] if settings.get("rank_pattern") and a.shape else fields.whole("r", 1, MAX_WIDTH)
    outputs, inputs = base.shape
    if (a.shape, b.shape) != ((rank, inputs), (outputs, rank)) or not rank:
        raise DataError(
            f"{path / FACTORS}: {module}: found factors of the shapes {list(a.shape)} and {list(b.shape)}, expected "
            f"{[rank, inputs]} and {[outputs, rank]} of rank r = {rank} and the base"
        )
    _check_targeted(path / ADAPTER_CONFIG, settings, module)
    alpha = _alpha(path / ADAPTER_CONFIG, settings, module)
    return Factors(a, b, alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """DataError that names each setting of PEFT that would change the result and is not computed here."""
    expected = {"peft_type": ("LORA",), "task_type": ("CAUSAL_LM", None), "bias": ("none", None)}
    wrong = [
        f"{name} {shown(settings.get(name))} (expected {known[0]})"
        for name, known in expected.items()
        if settings.get(name) not in known
    ]
    if settings.get("init_lora_weights") not in _PLAIN_INITS:
        wrong.append(f"init_lora_weights {shown(settings['init_lora_weights'])}, which changes the base")
    wrong += [
        f"{name} {shown(value)}" for name, value in settings.items() if value and name not in (*_READ, *_WITHOUT_EFFECT)
    ]
    if wrong:
        raise DataError(
            f"{path}: not supported: {'; '.join(wrong)}",
            "PEFT merges any adapter: merge_and_unload() and save_pretrained(..) give a folder that can be opened",
        )


def _check_targeted(path: Path, settings: Mapping[str, Any], module: str) -> None:
    """DataError for a module with factors that the lists of the configuration leave out: PEFT would ignore them."""
    targets, excluded = settings.get("target_modules"), settings.get("exclude_modules")
    layers = settings.get("layers_to_transform")
    # A regular expression is not run, as it may be made to take forever: the tensors say which modules it has found.
    missed = isinstance(targets, list) and not _named(module, targets)
    if isinstance(layers, (int, list)) and layers != []:
        number = re.search(r"\.layers\.(\d+)\.", f".{module}")
        missed = missed or number is None or int(number[1]) not in (layers if isinstance(layers, list) else [layers])
    if missed or (isinstance(excluded, list) and _named(module, excluded)):
        raise DataError(
            f"{path}: {FACTORS} has factors of {module}, which target_modules, exclude_modules or layers_to_transform "
            "leave out"
        )


def _named(module: str, names: list[Any]) -> bool:
    return any(isinstance(name, str) and (module == name or module.endswith(f".{name}")) for name in names)


def _alpha(path: Path, settings: Mapping[str, Any], module: str) -> float:
    fields = Fields(path, settings, _WHAT)
    pattern = fields.object("alpha_pattern") if settings.get("alpha_pattern") else {}
    for name in pattern:
        if not re.fullmatch(r"\^?[A-Za-z0-9_.]+", name):
            raise DataError(f"{path}: alpha_pattern: the regular expression {shown(name)} is not supported")
        if module == name.removeprefix("^") or (not name.startswith("^") and module.endswith(f".{name}")):
            return Fields(path, pattern, f"{_WHAT}: alpha_pattern").number(name)
    return fields.number("lora_alpha")


def merge(base: Floats, a: Floats, b: Floats, scale: float) -> Floats:
    """`base + scale * (b @ a)` as D1 of the contract rounds it. Shapes [outputs, inputs], [rank, inputs], [outputs,
    rank]."""
    import numpy as np

    merged = np.empty(base.shape, dtype=np.float32)
    with np.errstate(all="ignore"):
        for start in range(0, base.shape[0], _MERGED_ROWS):
            rows = slice(start, start + _MERGED_ROWS)
            total = np.zeros_like(merged[rows])
            for k in range(a.shape[0]):
                total = _fma(b[rows, k, None], a[None, k], total)
            merged[rows] = _fma(np.float32(scale), total, base[rows])
    return merged


def _fma(x: npt.NDArray[np.float32] | np.float32, y: Floats, z: Floats) -> Floats:
    """`x * y + z` with one rounding to float32."""
    import numpy as np

    product = np.float64(x) * y.astype(np.float64)
    other = z.astype(np.float64)
    total = product + other
    # What the sum lost. A sum that is not exact is made odd in its last bit, so that the next rounding is not misled.
    back = total - product
    lost = (product - (total - back)) + (other - back)
    bits = total.view(np.int64)
    inexact = np.isfinite(lost) & (lost != 0) & (bits & 1 == 0)
    step = np.where((lost > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + step, bits).view(np.float64).astype(np.float32)
