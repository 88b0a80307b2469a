"""From paths to tokens: the built-in corpus, the tokenizer, the shards."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from .. import _symlm
from ..chat import template as templates
from ..chat.renderer import Renderer
from ..chat.template import ChatTemplate
from ..config.train_config import Attend, DataFormat, TrainConfig
from ..errors import DataError, UsageError, UserError, reason
from ..model.tokenizer import load_tokenizer
from ..system.names import as_path
from ..system.values import locations
from ..units import count_of, format_count
from .conversations import ChatSettings, ChatTokens, grown_tokenizer, template_of, tokens_of, written_out
from .opening import open_corpus, other_form
from .remarks import warn_of_cut, warn_of_two_begins
from .survey import Lengths, split_lengths

if TYPE_CHECKING:
    from ..display import Display

BUILTIN_BYTES = 16 * 2**20
"""Most bytes of the built-in corpus."""

_LEFT_OUT = {"__pycache__", "dist-packages", "idlelib", "lib2to3", "site-packages", "test", "tests", "turtledemo"}


class ProgressFactory(Protocol):
    """Shows progress: a bar, for which it returns the function that moves it, and lines."""

    def task(self, label: str) -> Callable[[int, int], None]:
        """Open a bar; call the result with (done, total)."""
        ...

    def message(self, text: str) -> None:
        """Say something."""
        ...

    def warning(self, text: str) -> None:
        """Say something that needs a look."""
        ...


@dataclass(frozen=True)
class Prepared:
    """Everything a training run reads: tokens, held-out tokens (None without validation), tokenizer."""

    train: _symlm.Shards
    val: _symlm.Shards | None
    tokenizer: _symlm.Tokenizer
    train_files: int
    train_bytes: int
    data_format: DataFormat
    chat: ChatTemplate | None = None
    """What wrote conversations out."""
    chat_tokens: ChatTokens | None = None
    """Its special tokens."""
    halves: int = 0
    """Halves of surrogate pairs in conversations."""
    lengths: Lengths = (None, None)
    """Tokens of each example, where they were measured."""

    @property
    def hashes(self) -> dict[str, str | None]:
        """What tells these tokens from others: sha256 of the training ids, the held-out ids and the tokenizer."""
        return {
            "train_sha256": self.train.sha256,
            "val_sha256": None if self.val is None else self.val.sha256,
            "tokenizer_sha256": self.tokenizer.sha256,
        }


def builtin_files() -> list[str]:
    """The `.py` files of the running interpreter's standard library without its tests, in a fixed order, up to
    `BUILTIN_BYTES`. Files that are not UTF-8 text are left out."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[str, Path]] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT and not name.startswith("config-")]
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        found += [(path.relative_to(root).as_posix(), path) for path in paths]
    chosen, total = [], 0
    for _, path in sorted(found):
        try:
            raw = path.read_bytes()
            raw.decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if not raw.strip() or b"\0" in raw:
            continue
        total += len(raw)
        if total > BUILTIN_BYTES:
            break
        chosen.append(str(path))
    if not chosen:
        raise DataError(f"no Python sources in {root}", "give a text file: symlm train my.txt")
    return chosen


def cache_dir() -> Path:
    """Folder of prepared tokens: `$SYMLM_CACHE_DIR`, else `$XDG_CACHE_HOME/symlm`, else `~/.cache/symlm`.

    UserError when there is no home folder.
    """
    chosen = os.environ.get("SYMLM_CACHE_DIR")
    if chosen:
        return as_path("environment variable SYMLM_CACHE_DIR", chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return as_path("environment variable XDG_CACHE_HOME", base) / "symlm"
    try:
        return Path.home() / ".cache" / "symlm"
    except RuntimeError:
        raise UserError(
            "no folder for the token cache: HOME is not set and this user has no home folder",
            "set SYMLM_CACHE_DIR to a folder that may be written to",
        ) from None


def ensure_cache_dir() -> str:
    """Make the cache folder; UserError when that is not possible."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot make the token cache: {reason(error)}", "set SYMLM_CACHE_DIR to a writable folder"
        ) from None
    return str(folder)


ID_BLOCK = 1 << 16
"""Ids that are taken out of shards at once."""


def encode_text(
    data: str | Path | Iterable[str | Path],
    text_field: str,
    tokenizer: _symlm.Tokenizer,
    seq_len: int,
    threads: int,
    display: Display,
    data_format: DataFormat | None = None,
    template: Callable[[], ChatTemplate] | None = None,
    attend: Attend = "window",
) -> _symlm.Shards:
    """The tokens of texts that are only read, at least one window of `seq_len` tokens and their targets.

    Without a `data_format` these are texts, and examples are a UsageError. `template` gives what conversations are
    written out with, `attend` says what tokens are to see.
    """
    corpus = open_corpus(list(locations("data", data)), text_field, "auto" if data_format is None else data_format)
    if data_format is None and corpus.data_format != "text":
        what = "a conversation" if corpus.is_chat else "a prompt and a completion"
        raise UsageError(
            f"found {what} in each object, expected texts, of which every token counts",
            "leave --per-document and --stride out, or name the field that holds the text with --text-field",
        )
    tell_of([corpus], display)
    written = None
    if corpus.is_chat and template is not None:
        with Renderer(template()) as renderer:
            hint = "train the model on conversations first, with symlm finetune"
            tokens = tokens_of(renderer, tokenizer, add=False, hint=hint)
            display.message(f"conversations: {corpus.data_format}, chat template {renderer.template.origin}")
            bar = display.task("writing out")
            written = written_out(corpus, renderer, "assistant", tokens.special, display.warning, bar, seq_len)
    source = corpus if written is None else written.corpus
    move = display.task("encoding")
    shards = source.prepare(tokenizer, ensure_cache_dir(), 0.0, seq_len, threads, move, attend).train
    tell_halves(corpus.halves if written is None else written.halves, display)
    warn_of_cut([shards], display)
    warn_of_two_begins(shards, tokenizer, display)
    return shards


def text_blocks(shards: _symlm.Shards, tokenizer: _symlm.Tokenizer) -> Iterator[bytes]:
    """The text that shards were made from, documents one right after the other."""
    between = {tokenizer.eot_id, *tokenizer.document_start}
    for at in range(0, shards.tokens, ID_BLOCK):
        ids = shards.ids(at, min(ID_BLOCK, shards.tokens - at))
        yield tokenizer.decode_bytes([token for token in ids if token not in between])


def tell_of(corpora: Sequence[_symlm.Corpus], display: ProgressFactory) -> None:
    """Say what was left out of them since symlm wrote it, and which file holds JSON that is taken for a plain text."""
    for note in dict.fromkeys(corpus.note for corpus in corpora):
        if note is not None:
            display.message(note)
    for corpus in corpora:
        if corpus.like_json is not None:
            display.warning(
                f"{corpus.like_json} begins with objects of JSON, but is not called .json or .jsonl: it is taken as it "
                "stands, with the names of the fields; rename the file, or give it to standard input (-)"
            )


def tell_halves(count: int, display: ProgressFactory) -> None:
    """Say how many characters that were read are halves of surrogate pairs, if any."""
    if count:
        were = "that is half of a surrogate pair was" if count == 1 else "that are half of a surrogate pair were"
        display.warning(f"{count_of(count, 'character')} {were} read as U+FFFD")


def vocab_size_with(config: TrainConfig, tokenizer: _symlm.Tokenizer) -> int:
    """Rows of the embedding: as many as the tokenizer has tokens, but those of a model that was taken over stay."""
    rows = tokenizer.vocab_size
    return rows if config.init_from is None else max(config.model.vocab_size, rows)


class Sources:
    """The opened texts of a run: everything cheap is checked, no long work has begun."""

    def __init__(
        self, config: TrainConfig, tokenizer_path: str | Path | None, tokenizer_sha256: str | None = None
    ) -> None:
        self.config = config
        paths = list(config.data) or builtin_files()
        self.train = open_corpus(paths, config.text_field, config.data_format or "auto")
        self.val = None
        if config.val_data:
            self.val = open_corpus(list(config.val_data), config.text_field, self.train.data_format)
        self.chat: ChatSettings | None = None
        """How conversations are written out, where the texts are these."""
        self.measure = False
        """Whether to tell how many tokens each example has."""
        self.of_model = None if config.init_from is None else config.model
        """The model that the tokenizer belongs to."""
        self.tokenizer = None
        if tokenizer_path is not None:
            self.tokenizer = load_tokenizer(tokenizer_path, tokenizer_sha256, self.of_model)
        self.inputs = [*self.train.paths, *(self.val.paths if self.val is not None else [])]
        """All files that are read, the tokenizer among them."""
        if tokenizer_path is not None:
            self.inputs.append(Path(tokenizer_path))
        if self.tokenizer is not None and config.vocab_size not in (None, vocab_size_with(config, self.tokenizer)):
            raise UsageError(
                f"--vocab-size {config.vocab_size} is not the {self.tokenizer.vocab_size} tokens of {tokenizer_path}",
                "leave --vocab-size out: it follows the tokenizer",
            )

    def __str__(self) -> str:
        named = ", ".join(self.config.data) if self.config.data else "the Python standard library"
        return f"{named} ({count_of(self.train.files, 'file')}, {format_count(self.train.bytes)} bytes)"

    def prepare(self, threads: int, progress: ProgressFactory) -> Prepared:
        """Train the tokenizer if there is none, and encode the texts (or find them in the cache)."""
        opened = [self.train] if self.val is None else [self.train, self.val]
        tell_of(opened, progress)
        self._tell_choice(progress)
        if self.chat is None and self.train.is_chat:
            template = template_of(self.config.chat_template, None)
            self.chat = ChatSettings(template, self.config.train_on, self.config.add_tokens)
        if self.chat is None:
            tokenizer = self.tokenizer or self._new_tokenizer(self.train, threads, progress, ())
            return self._encode(opened, tokenizer, threads, progress)
        with Renderer(self.chat.template) as renderer:
            tokens = tokens_of(renderer, self.tokenizer, add=self.chat.add_tokens)
            _tell_conversations(self.train, self.chat, tokens, self.tokenizer, progress, self.config.lora_rank > 0)
            bars = [progress.task("writing out"), progress.task("writing out held-out")][: len(opened)]
            written = [
                written_out(
                    corpus,
                    renderer,
                    self.chat.train_on,
                    tokens.special,
                    progress.warning,
                    bar,
                    self.config.model.seq_len,
                )
                for corpus, bar in zip(opened, bars, strict=True)
            ]
            if self.tokenizer is None:
                tokenizer = self._new_tokenizer(written[0].corpus, threads, progress, tokens.added)
            elif tokens.added:
                tokenizer = grown_tokenizer(self.tokenizer, tokens.added, self.of_model)
            else:
                tokenizer = self.tokenizer
            tokens = replace(tokens, end=templates.end_of_turn(renderer, tokenizer))
        prepared = self._encode([part.corpus for part in written], tokenizer, threads, progress)
        halves = sum(part.halves for part in written)
        tell_halves(halves, progress)
        return replace(prepared, chat=self.chat.template, chat_tokens=tokens, halves=halves)

    def _tell_choice(self, progress: ProgressFactory) -> None:
        """Say so where objects hold a text and something else too, of which nobody said which to take."""
        if self.config.data_format is not None or (form := other_form(self.train, self.config.text_field)) is None:
            return
        progress.message(
            f'objects have a text and the fields of {form} too: takes field "{self.config.text_field}"; '
            f"--data-format {form} takes the others, and learns the answers only"
        )

    def _new_tokenizer(
        self, corpus: _symlm.Corpus, threads: int, progress: ProgressFactory, special: Sequence[str]
    ) -> _symlm.Tokenizer:
        rows = self.config.model.vocab_size
        tokenizer = corpus.train_tokenizer(rows, threads, progress.task("tokenizer"), special)
        if tokenizer.vocab_size != rows:
            raise DataError(
                f"the text supports {tokenizer.vocab_size} tokens, asked for {rows}",
                f"use --vocab-size {tokenizer.vocab_size} or more text",
            )
        return tokenizer

    def _encode(
        self, corpora: Sequence[_symlm.Corpus], tokenizer: _symlm.Tokenizer, threads: int, progress: ProgressFactory
    ) -> Prepared:
        """Encode the texts to train on and, where they are separate, the held-out ones."""
        config, cache = self.config, ensure_cache_dir()
        seq_len, attend = config.model.seq_len, config.attend
        split = config.val_split if len(corpora) == 1 else 0.0
        parts = corpora[0].prepare(tokenizer, cache, split, seq_len, threads, progress.task("encoding"), attend)
        train, val = parts.train, parts.val
        if len(corpora) > 1:
            held_out = progress.task("encoding held-out")
            val = corpora[1].prepare(tokenizer, cache, 0.0, seq_len, threads, held_out, attend).train
        tell_halves(sum(corpus.halves for corpus in corpora), progress)
        lengths: Lengths = (None, None)
        if self.measure and train.window is not None:
            raw = [c.example_lengths(tokenizer, seq_len, threads, progress.task("measuring")) for c in corpora]
            lengths = split_lengths(b"".join(raw), train.documents)
        data_format = cast(DataFormat, self.train.data_format)
        return Prepared(train, val, tokenizer, self.train.files, self.train.bytes, data_format, lengths=lengths)


def _tell_conversations(
    corpus: _symlm.Corpus,
    chat: ChatSettings,
    tokens: ChatTokens,
    tokenizer: _symlm.Tokenizer | None,
    progress: ProgressFactory,
    lora: bool,
) -> None:
    """Say in a line what the objects hold and what is done with them, and which tokens the model gets."""
    learnt = {"assistant": "the answers", "last": "the last answers", "all": "all"}[chat.train_on]
    progress.message(f"conversations: {corpus.data_format}, chat template {chat.template.origin}, {learnt} learnt")
    if tokenizer is not None and tokens.added and lora:
        progress.warning(
            f"adapters do not train the rows of new special tokens ({', '.join(tokens.added)}), which stay the mean of "
            "the others: train all weights, or name a template of the model's own tokens"
        )
    elif tokenizer is not None and tokens.added:
        progress.message(f"new special tokens: {', '.join(tokens.added)}; each gets a row, the mean of the others")
