import builtins
import os
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar, Final, final

from .errors import SymlmError

__all__ = [
    "AUTO_SECTORS",
    "CONTRACT_VERSION",
    "MAX_LAYERS",
    "MAX_POSITIONS",
    "MAX_VOCAB",
    "MAX_WIDTH",
    "AvailableMemory",
    "Batch",
    "Corpus",
    "Cpus",
    "Drawn",
    "EncodedPair",
    "Engine",
    "EngineSettings",
    "EngineState",
    "EvalReport",
    "Exchange",
    "Generator",
    "Gradients",
    "Interval",
    "JsonObject",
    "Limits",
    "LoraSettings",
    "Memory",
    "MemoryPart",
    "MemoryPlan",
    "ModelShape",
    "ObjectFile",
    "Objects",
    "Outgoing",
    "OwnNames",
    "OwnOutput",
    "Parameter",
    "Probe",
    "QueueFill",
    "RopeScaling",
    "SampleSettings",
    "Saving",
    "Shards",
    "Span",
    "SplitShards",
    "StepReport",
    "Task",
    "TensorNumbers",
    "TokenStream",
    "Tokenizer",
    "Trace",
    "TrainSettings",
    "Transfer",
    "Weights8",
    "WorkerStats",
    "WorkerTimes",
    "WrittenFile",
    "available_cpus",
    "available_isas",
    "available_memory",
    "check_memory",
    "flops_per_token",
    "fma_peak",
    "integer_instructions",
    "integer_peak",
    "isa",
    "limits",
    "memory_plan",
    "own_output",
    "parameter_table",
    "read_bandwidth",
]

_Path = str | os.PathLike[str]
_Progress = Callable[[int, int], None]

CONTRACT_VERSION: Final[int]
AUTO_SECTORS: Final[int]
"""Sectors in flight if none are asked for."""
MAX_VOCAB: Final[int]
"""Most rows of the embedding."""
MAX_WIDTH: Final[int]
"""Most columns of a matrix, and most heads."""
MAX_LAYERS: Final[int]
"""Most transformer blocks."""
MAX_POSITIONS: Final[int]
"""Most positions of a window."""

def isa() -> str: ...
def available_isas() -> list[str]: ...
def integer_instructions() -> str: ...
def available_cpus() -> Cpus: ...
def fma_peak(threads: int, seconds: float, isa: str | None = None) -> float: ...
def integer_peak(threads: int, seconds: float, isa: str | None = None) -> float | None: ...
def check_memory(settings: EngineSettings) -> None: ...
def flops_per_token(shape: ModelShape) -> float: ...
def limits(setting: str) -> Limits: ...
def memory_plan(settings: EngineSettings) -> MemoryPlan: ...
def available_memory() -> AvailableMemory | None: ...
def own_output() -> OwnOutput: ...
def read_bandwidth(threads: int, block: int) -> float: ...
def parameter_table(shape: ModelShape) -> list[Parameter]: ...

@final
class Cpus:
    """Processors that this process may use."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def count(self) -> int:
        """How many."""
    @property
    def rule(self) -> str:
        """The rule that decided."""

@final
class AvailableMemory:
    """Memory that is available now."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def bytes(self) -> int:
        """How much."""
    @property
    def rule(self) -> str:
        """The rule that decided."""

@final
class MemoryPart:
    """A part of a plan of memory."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def name(self) -> str:
        """What it is for."""
    @property
    def bytes(self) -> float:
        """How much it takes."""

@final
class MemoryPlan:
    """What a run takes in memory."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def engine(self) -> list[MemoryPart]:
        """Parts of the engine."""
    @property
    def beside(self) -> list[MemoryPart]:
        """Copies that are held beside it for a while."""

@final
class Parameter:
    """A tensor of a model."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def name(self) -> str:
        """Its name in a safetensors file."""
    @property
    def shape(self) -> list[int]:
        """Rows and columns, or elements."""

@final
class OwnNames:
    """The names by which something that symlm writes is known."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def what(self) -> str:
        """What it is."""
    @property
    def names(self) -> list[str]:
        """Entries of a folder, or fields of a JSON file."""
    @property
    def mark(self) -> str:
        """What the first of the entries has near its beginning; empty where its name says enough."""

@final
class OwnOutput:
    """What tells the folders and files that symlm writes from texts."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def folders(self) -> list[OwnNames]:
        """Folders by their entries."""
    @property
    def lock(self) -> str:
        """The lock of a run."""
    @property
    def begun(self) -> list[str]:
        """What a run begins with."""
    @property
    def unfinished(self) -> list[str]:
        """Beginnings of the names of unfinished files."""
    @property
    def events(self) -> str:
        """The beginning of the names of event files."""
    @property
    def fields(self) -> list[OwnNames]:
        """JSON files by their fields."""

@final
class EncodedPair:
    """A prompt and its completion as one text."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def ids(self) -> list[int]:
        """Token ids of both."""
    @property
    def completion(self) -> int:
        """How many of the ids, the last ones, are the completion."""

@final
class JsonObject:
    """An object of a file."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def number(self) -> int:
        """Its number, from 1."""
    @property
    def place(self) -> str:
        """Where it stands, in words."""
    @property
    def json(self) -> str:
        """Its text, of the fields that were asked for."""

@final
class StepReport:
    """One finished update."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def step(self) -> int:
        """Updates done."""
    @property
    def loss(self) -> float:
        """Mean over the targets of the batch, in nats."""
    @property
    def lr(self) -> float:
        """Learning rate."""
    @property
    def grad_norm(self) -> float:
        """Norm of the gradient before clipping."""
    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
    @property
    def seconds(self) -> float:
        """Time of the update."""
    @property
    def busy_frac(self) -> list[float]:
        """Of each worker, the part of the time that it was inside tasks."""
    @property
    def prefetch_wait_s(self) -> float:
        """Seconds for which the update waited for its batch."""

@final
class EvalReport:
    """The outcome of an evaluation."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def loss(self) -> float:
        """Mean over the targets, in nats."""
    @property
    def tokens(self) -> int:
        """Targets."""
    @property
    def windows(self) -> int:
        """Windows."""
    @property
    def bits_per_byte(self) -> float:
        """The loss in bits for each byte of the text."""

@final
class WorkerStats:
    """What a worker did since the start."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def tasks(self) -> int:
        """Tasks done."""
    @property
    def busy_s(self) -> float:
        """Seconds inside them."""
    @property
    def steals(self) -> int:
        """Tasks taken from other workers."""

@final
class TensorNumbers:
    """A tensor after an update."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def name(self) -> str:
        """Its name in the weights."""
    @property
    def grad_norm(self) -> float:
        """Norm of its gradient."""
    @property
    def bad_gradients(self) -> int:
        """Elements of the gradient that are not finite."""
    @property
    def bad_weights(self) -> int:
        """Elements of the weights that are not finite."""
    @property
    def bad_moments(self) -> int:
        """Elements of the moments that are not finite."""

@final
class Task:
    """A node of the graph of an update."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def kind(self) -> str:
        """What it does."""
    @property
    def detail(self) -> str:
        """Where."""
    @property
    def after(self) -> list[int]:
        """The nodes that it waits for."""
    @property
    def urgent(self) -> bool:
        """Whether it comes before those that can wait."""

@final
class WrittenFile:
    """A file that was written."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def bytes(self) -> int:
        """Its size."""
    @property
    def sha256(self) -> str:
        """Its SHA-256, in hexadecimal digits."""

@final
class QueueFill:
    """How full the prefetch channel is."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def batches(self) -> int:
        """Batches in it."""
    @property
    def capacity(self) -> int:
        """Batches that it has room for."""

@final
class Transfer:
    """A range of memory that leaves to, or arrives from another rank in every update."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def tag(self) -> int:
        """Tells it from others between the same two ranks."""
    @property
    def peer(self) -> int:
        """The other rank."""
    @property
    def incoming(self) -> bool:
        """Whether it comes from there."""
    @property
    def address(self) -> int:
        """First byte of the memory, which lives as long as the exchange."""
    @property
    def bytes(self) -> int:
        """Its length."""
    @property
    def values_of(self) -> int | None:
        """The rank whose new values it holds; None for everything else."""
    @property
    def sums(self) -> bool:
        """Whether it holds partial sums of the gradient."""

@final
class Outgoing:
    """What there is to do for the thread that moves bytes."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def begun(self) -> int:
        """Updates that have begun since the last call."""
    @property
    def leaving(self) -> list[int]:
        """Transfers that may leave, by their position."""

@final
class Memory:
    """A range of memory, which lives as long as the exchange."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def address(self) -> int:
        """First byte."""
    @property
    def bytes(self) -> int:
        """Its length."""

@final
class Span:
    """A task on a worker. Times are nanoseconds from the origin of the trace."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def worker(self) -> int:
        """Number of the worker, from 0."""
    @property
    def node(self) -> int:
        """Number of the node in the graph."""
    @property
    def start_ns(self) -> int:
        """When it began."""
    @property
    def end_ns(self) -> int:
        """When it ended."""

@final
class Interval:
    """An interval of time in nanoseconds from the origin of the trace."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def start_ns(self) -> int:
        """When it began."""
    @property
    def end_ns(self) -> int:
        """When it ended."""

@final
class WorkerTimes:
    """How a worker spent the updates, in seconds. The four times add up to those of the updates."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def busy_s(self) -> float:
        """Inside tasks."""
    @property
    def steal_s(self) -> float:
        """Handing on and looking for work."""
    @property
    def idle_s(self) -> float:
        """Without work."""
    @property
    def prefetch_wait_s(self) -> float:
        """Without work for want of a batch."""
    @property
    def tasks(self) -> int:
        """Tasks done."""
    @property
    def steals(self) -> int:
        """Tasks taken from other workers."""

@final
class Limits:
    """The numbers that a setting may have, `low` and `high` included."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def low(self) -> float:
        """The smallest number."""
    @property
    def high(self) -> float:
        """The largest number."""
    @property
    def above(self) -> bool:
        """Whether `low` itself is left out."""

@final
class RopeScaling:
    """Rotary frequencies stretched for longer contexts, the type "llama3" (contract E6a). Positions count tokens."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    FIELDS: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        *,
        factor: float,
        low_freq_factor: float,
        high_freq_factor: float,
        original_max_position_embeddings: int,
    ) -> RopeScaling: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def factor(self) -> float: ...
    @property
    def low_freq_factor(self) -> float: ...
    @property
    def high_freq_factor(self) -> float: ...
    @property
    def original_max_position_embeddings(self) -> int: ...

@final
class ModelShape:
    """Shape of a model. Sizes count floats, heads or tokens; `seq_len` is the positions of a window."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    FIELDS: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        *,
        vocab_size: int,
        hidden_size: int,
        intermediate_size: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        seq_len: int,
        rope_theta: float,
        rms_norm_eps: float,
        tie_embeddings: bool,
        rope_scaling: RopeScaling | None,
    ) -> ModelShape: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def seq_len(self) -> int: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rms_norm_eps(self) -> float: ...
    @property
    def tie_embeddings(self) -> bool: ...
    @property
    def rope_scaling(self) -> RopeScaling | None: ...

@final
class LoraSettings:
    """Low-rank adapters: columns of B and rows of A, the factor of their product times the rank, projections."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    FIELDS: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        *,
        rank: int,
        alpha: float,
        targets: Sequence[str],
    ) -> LoraSettings: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def targets(self) -> list[str]: ...

@final
class TrainSettings:
    """What a run computes, with every limit as a number of updates; `batch_size` counts windows."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    FIELDS: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        *,
        batch_size: int,
        max_steps: int,
        learning_rate: float,
        warmup_steps: int,
        decay_start: int,
        schedule: str,
        min_lr_ratio: float,
        embedding_lr_ratio: float,
        initial_weights: str,
        weight_decay: float,
        beta1: float,
        beta2: float,
        eps: float,
        grad_clip: float,
        seed: int,
        precision: str,
        attend: str,
        lora: LoraSettings | None,
    ) -> TrainSettings: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def decay_start(self) -> int: ...
    @property
    def schedule(self) -> str: ...
    @property
    def min_lr_ratio(self) -> float: ...
    @property
    def embedding_lr_ratio(self) -> float: ...
    @property
    def initial_weights(self) -> str: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def beta1(self) -> float: ...
    @property
    def beta2(self) -> float: ...
    @property
    def eps(self) -> float: ...
    @property
    def grad_clip(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def attend(self) -> str: ...
    @property
    def lora(self) -> LoraSettings | None: ...

@final
class EngineSettings:
    """Everything that an engine is made from. `sectors_in_flight` 0 is automatic, `plan_threads` 0 as many as
    `threads`. Of `ranks` processes that compute the run together this is number `rank`; 0 counts as 1."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    FIELDS: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        *,
        model: ModelShape,
        train: TrainSettings,
        threads: int,
        sectors_in_flight: int,
        plan_threads: int,
        ranks: int,
        rank: int,
    ) -> EngineSettings: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def model(self) -> ModelShape: ...
    @property
    def train(self) -> TrainSettings: ...
    @property
    def threads(self) -> int: ...
    @property
    def sectors_in_flight(self) -> int: ...
    @property
    def plan_threads(self) -> int: ...
    @property
    def ranks(self) -> int: ...
    @property
    def rank(self) -> int: ...

@final
class SampleSettings:
    """How text is drawn; `stop_ids` are the tokens that end it."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    FIELDS: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        *,
        max_new_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repetition_penalty: float,
        seed: int,
        sample_index: int,
        stop_ids: Sequence[int],
    ) -> SampleSettings: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def min_p(self) -> float: ...
    @property
    def repetition_penalty(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def sample_index(self) -> int: ...
    @property
    def stop_ids(self) -> list[int]: ...

@final
class EngineState:
    """What a checkpoint holds beside the tensors: the contract it was computed by, the updates done, and the
    SHA-256 of the weights that adapters were added to."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    FIELDS: ClassVar[tuple[str, ...]]
    def __new__(
        cls,
        *,
        contract: int,
        step: int,
        base_sha256: str | None,
    ) -> EngineState: ...
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def contract(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def base_sha256(self) -> str | None: ...

@final
class SplitShards:
    """The encoded text of a corpus."""

    @property
    def train(self) -> Shards:
        """What is trained on."""
    @property
    def val(self) -> Shards | None:
        """What is held out for validation; None where nothing is."""

@final
class Gradients:
    """The outcome of a forward and a backward pass."""

    @property
    def loss(self) -> float:
        """Mean over the targets, in nats."""
    @property
    def of(self) -> dict[str, bytes]:
        """Little-endian f32 of each tensor that is trained, by its name."""

@final
class Tokenizer:
    @staticmethod
    def from_file(path: _Path) -> Tokenizer: ...
    @staticmethod
    def of_model(path: _Path, eos_id: int | None, embedded: int | None, bos_id: int | None = None) -> Tokenizer: ...
    def encode_prompt(self, text: str) -> list[int]: ...
    def encode_pair(self, prompt: str, completion: str) -> EncodedPair: ...
    def encode_rendered(self, text: str) -> list[int]: ...
    @property
    def special_ids(self) -> list[int]: ...
    def save(self, path: _Path) -> None: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eot_id(self) -> int | None: ...
    @property
    def document_start(self) -> list[int]: ...
    @property
    def marks_beginning(self) -> bool: ...
    @property
    def sha256(self) -> str: ...

@final
class Corpus:
    @staticmethod
    def open(
        paths: Sequence[str | PathLike[str]],
        text_field: str = "text",
        data_format: str = "auto",
        tables: Sequence[str] = (),
    ) -> Corpus: ...
    @property
    def files(self) -> int: ...
    @property
    def paths(self) -> list[Path]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def data_format(self) -> str: ...
    @property
    def note(self) -> str | None: ...
    @property
    def like_json(self) -> Path | None: ...
    @property
    def empty(self) -> int: ...
    def read_through(self, progress: _Progress | None) -> None: ...
    @property
    def halves(self) -> int: ...
    @property
    def is_chat(self) -> bool: ...
    def conversations(self) -> Objects: ...
    def train_tokenizer(
        self, vocab_size: int, threads: int, progress: _Progress | None, special: Sequence[str] = ()
    ) -> Tokenizer: ...
    def example_lengths(
        self, tokenizer: Tokenizer, seq_len: int, threads: int, progress: _Progress | None
    ) -> builtins.bytes: ...
    def prepare(
        self,
        tokenizer: Tokenizer,
        cache_dir: _Path,
        val_split: float,
        seq_len: int,
        threads: int,
        progress: _Progress | None,
        attend: str = "window",
    ) -> SplitShards: ...

@final
class ObjectFile:
    @staticmethod
    def open(path: str | PathLike[str], fields: Sequence[str], most: int, tables: Sequence[str] = ()) -> ObjectFile: ...
    def __iter__(self) -> Objects: ...

@final
class Objects(Iterator[JsonObject]):
    def __next__(self) -> JsonObject: ...
    @property
    def bytes(self) -> int: ...
    @property
    def halves(self) -> int: ...

@final
class Shards:
    @staticmethod
    def random(path: _Path, vocab_size: int, tokens: int, seed: int) -> Shards: ...
    @staticmethod
    def open(path: _Path, tokenizer: Tokenizer) -> Shards: ...
    @property
    def tokens(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def targets(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    @property
    def cut(self) -> int: ...
    @property
    def documents(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def path(self) -> Path: ...
    def words(self, start: int, count: int) -> builtins.bytes: ...
    def ids(self, start: int, count: int, *, masked: bool = False) -> list[int]: ...

@final
class Engine:
    def __new__(
        cls,
        settings: EngineSettings,
        train: Shards,
        *,
        isa: str | None = None,
        prefetch: bool = True,
        barriers: bool = False,
    ) -> Engine: ...
    def run_until(self, step: int) -> None: ...
    def poll(self, timeout_s: float) -> StepReport | None: ...
    def request_stop(self) -> None: ...
    def evaluate(self, shards: Shards, max_windows: int, progress: _Progress | None) -> EvalReport: ...
    def save_begin(self, folder: _Path) -> Saving: ...
    def load(self, folder: _Path, state: EngineState) -> None: ...
    def load_weights(self, path: _Path) -> None: ...
    def save_base(self, path: _Path) -> None: ...
    def weights_sha256(self) -> str: ...
    def moments_sha256(self) -> str: ...
    def pass_over(self) -> None: ...
    def restart(self) -> None: ...
    def set_step(self, step: int) -> None: ...
    def exchange(self) -> Exchange: ...
    def window(self, step: int, index: int) -> list[int]: ...
    def window_losses(self) -> list[float]: ...
    def tensor_numbers(self) -> list[TensorNumbers]: ...
    def snapshot(self) -> Generator: ...
    def worker_stats(self) -> list[WorkerStats]: ...
    def record(self, on: bool) -> None: ...
    def take_trace(self) -> Trace: ...
    def task_graph(self) -> list[Task]: ...
    def close(self) -> None: ...
    @property
    def step(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def flops_per_token(self) -> float: ...
    @property
    def queue_fill(self) -> QueueFill: ...
    @property
    def isa(self) -> str: ...

@final
class Exchange:
    def plan(self) -> list[Transfer]: ...
    def wait(self, timeout_s: float) -> Outgoing: ...
    def done(self, transfers: list[int]) -> None: ...
    def fail(self, message: str) -> None: ...
    def owned_moments(self) -> list[list[Memory]]: ...
    def owned_gradient(self) -> list[list[Memory]]: ...
    def whole_state(self) -> list[Memory]: ...
    def sums_digest(self) -> int: ...
    @property
    def wrong_copy(self) -> int | None: ...

@final
class Saving:
    @property
    def state(self) -> EngineState: ...
    def wait(self, timeout_s: float = 0.0) -> bool: ...
    def finish(self) -> dict[str, WrittenFile]: ...

@final
class Trace:
    @property
    def origin_ns(self) -> int:
        """Where all times count from, in nanoseconds of `time.monotonic_ns()`."""
    @property
    def spans(self) -> list[Span]: ...
    @property
    def updates(self) -> list[Interval]: ...
    @property
    def prefetch_waits(self) -> list[Interval]: ...
    @property
    def workers(self) -> list[WorkerTimes]: ...
    def write_chrome(self, path: _Path) -> None: ...

@final
class Generator:
    @staticmethod
    def from_weights(shape: ModelShape, safetensors_path: _Path) -> Generator: ...
    @staticmethod
    def from_weights8(shape: ModelShape, safetensors_path: _Path) -> Generator: ...
    @property
    def token_bytes(self) -> int: ...
    @property
    def threads(self) -> int: ...
    def logits(self, ids: Sequence[int], last: int | None = None) -> bytes: ...
    def stream(self, ids: Sequence[int], settings: SampleSettings) -> TokenStream: ...
    def stream_behind(self, tokenizer: Tokenizer, text: str, settings: SampleSettings) -> TokenStream: ...
    def batch(
        self,
        slots: int,
        context: int,
        *,
        roll: bool = False,
        prefix_bytes: int = 0,
        threads: int | None = None,
    ) -> Batch: ...

@final
class Batch:
    def join(self, ids: Sequence[int], settings: SampleSettings, logprobs: int | None = None) -> int: ...
    def join_behind(
        self, tokenizer: Tokenizer, text: str, settings: SampleSettings, logprobs: int | None = None
    ) -> tuple[int, int]: ...
    def step(self) -> list[Drawn]: ...
    def leave(self, slot: int) -> None: ...
    @property
    def slots(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def free(self) -> int: ...
    @property
    def reused(self) -> int: ...
    @property
    def prefix_bytes(self) -> int: ...

@final
class Drawn:
    """A token that a step of a batch drew."""

    __hash__: ClassVar[None]  # type: ignore[assignment]
    def __eq__(self, other: object, /) -> bool: ...
    @property
    def slot(self) -> int:
        """The slot of its text."""
    @property
    def token(self) -> int | None:
        """None of a text that was to have no tokens, or that failed."""
    @property
    def finished(self) -> bool:
        """Whether the text ends here."""
    @property
    def why(self) -> str | None:
        """Why: "stop" (the token ends texts and is not part of it), "length" (of `max_new_tokens`), "context"."""
    @property
    def error(self) -> SymlmError | None:
        """Why the text failed, which ends it too."""
    @property
    def logprob(self) -> float | None:
        """Natural logarithm of the token's probability, whatever the settings; None if it was not asked for."""
    @property
    def top(self) -> list[tuple[int, float]]:
        """The most likely tokens with theirs, as many as were asked for."""

@final
class Probe:
    def __new__(cls, settings: EngineSettings) -> Probe: ...
    @staticmethod
    def panic() -> None: ...
    def set_parameter(self, name: str, values: bytes) -> None: ...
    def parameter(self, name: str) -> bytes: ...
    def forward_backward(self, ids: Sequence[Sequence[int]]) -> Gradients: ...
    def logits(self, ids: Sequence[int]) -> bytes: ...
    def adamw_step(self, ids: Sequence[Sequence[int]]) -> float: ...
    def close(self) -> None: ...

@final
class TokenStream:
    @property
    def repeated(self) -> int: ...
    def __iter__(self) -> TokenStream: ...
    def __next__(self) -> int: ...

@final
class Weights8:
    def __new__(cls, shape: ModelShape) -> Weights8: ...
    def set_values(self, name: str, values: bytes) -> None: ...
    def set_blocks(self, name: str, blocks: bytes) -> None: ...
    def finish(self) -> Generator: ...
