"""`symlm bench --decode`: how fast text is written, beside what the memory allows, and beside llama.cpp."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import _symlm
from ..errors import UserError
from ..export.write import export
from ..generate.generator import WEIGHT_KINDS, Generator
from ..system.files import temporary, write_atomic
from ..system.signals import Stopped, StopSignals
from ..system.target import check_target
from .facts import facts
from .peers import LlamaPeer, PeerFailed
from .report import decoding
from .settings import BenchConfig
from .tasks import Decoding, Entry

TOGETHER = 32
"""Texts of a batch."""

TOKENS, PROMPT = 64, 128
"""Tokens that a turn writes, and that it reads, if the model has positions for them."""

_GGUF = {"f32": "f32", "q8": "q8_0"}


class DecodeBench:
    """One benchmark of generation; `run` measures, prints and writes."""

    def __init__(self, config: BenchConfig) -> None:
        assert config.decode is not None
        self.config, self.model = config, Path(config.decode)
        self.signals = StopSignals()
        self.measured = Decoding()
        self.entries, self.bandwidth = self.measured.entries, self.measured.bandwidth
        self._peers: list[LlamaPeer] = []

    def run(self) -> int:
        """Gives the exit code."""
        if self.config.peers == "llama.cpp" and importlib.util.find_spec("llama_cpp") is None:
            raise UserError("cannot import llama_cpp", "pip install llama-cpp-python beside symlm")
        if self.config.json is not None:
            check_target("--json", self.config.json, ())
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            folder = stack.enter_context(temporary())
            for weights in WEIGHT_KINDS:
                generator = Generator.from_pretrained(self.model, weights=weights)
                self._add(generator, weights)
                if self.config.peers == "llama.cpp":
                    self._add_peers(generator, weights, folder)
            with self.signals, contextlib.suppress(Stopped):
                self._measure()
        self._publish()
        return 0 if self.signals.received is None else 128 + self.signals.received

    def _add(self, generator: Generator, weights: str) -> None:
        engine, model = generator.engine, generator.model
        tokens, prompt = min(TOKENS, model.seq_len - 1), min(PROMPT, model.seq_len)
        settings = _symlm.SampleSettings(
            max_new_tokens=10**9, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=1,
            sample_index=0, stop_ids=[],
        )  # fmt: skip
        ids = [token % (model.vocab_size - 1) + 1 for token in range(prompt)]

        def decode() -> float:
            stream = engine.stream(ids[:1], settings)
            next(stream)
            begin = time.perf_counter()
            for _ in range(tokens):
                next(stream)
            return time.perf_counter() - begin

        def batch() -> float:
            texts = engine.batch(TOGETHER, model.seq_len)
            for text in range(TOGETHER):
                texts.join([(text + 1) % model.vocab_size], settings)
            while len(_step(texts)) < TOGETHER:
                pass
            begin = time.perf_counter()
            for _ in range(tokens):
                _step(texts)
            return time.perf_counter() - begin

        def prefill() -> float:
            stream = engine.stream(ids, settings)
            begin = time.perf_counter()
            next(stream)
            return time.perf_counter() - begin

        tokens = min(tokens, model.seq_len - 3)
        threads, read = engine.threads, engine.token_bytes
        self.bandwidth[weights] = _symlm.read_bandwidth(threads, read)
        self.entries += [
            Entry("symlm", weights, "decode", threads, decode, tokens, read),
            Entry("symlm", weights, "batch", threads, batch, tokens * TOGETHER),
            Entry("symlm", weights, "prefill", threads, prefill, prompt),
        ]

    def _add_peers(self, generator: Generator, weights: str, folder: Path) -> None:
        path = folder / f"{weights}.gguf"
        export(self.model, "gguf", path, dtype=_GGUF[weights])
        tokens, prompt = min(TOKENS, generator.model.seq_len - 3), min(PROMPT, generator.model.seq_len)
        cores = _symlm.available_cpus().count
        for threads in sorted({1, 2, 4, cores} & set(range(1, cores + 1))):
            peer = LlamaPeer(path, weights, threads, max(generator.model.seq_len, 512), self.signals)
            self._peers.append(peer)
            for task, count in (("decode", tokens), ("prefill", prompt)):

                def turn(peer: LlamaPeer = peer, line: str = f"{task} {count}") -> float:
                    return peer.run(line)

                self.entries.append(Entry("llama.cpp", weights, task, threads, turn, count))

    def _measure(self) -> None:
        console = Console(stderr=True)
        for peer in self._peers:
            try:
                peer.start()
            except PeerFailed as error:
                raise UserError(f"{peer.name}: {error}") from None
        for number in range(self.config.round_count + 1):
            for entry in self.entries:
                self.signals.check()
                seconds = entry.run()
                # The first round warms up.
                if number:
                    entry.seconds.append(seconds)
            console.print(f"round {number}/{self.config.round_count}", highlight=False)

    def _close(self) -> None:
        for peer in self._peers:
            peer.close()

    def _publish(self) -> None:
        Console(width=120).print(decoding(self.measured))
        if self.config.json is not None:
            rows: list[dict[str, Any]] = [
                {
                    "name": e.name, "weights": e.weights, "task": e.task, "threads": e.threads, "tokens": e.tokens,
                    "seconds": e.seconds, "tok_s": e.tok_s, "token_bytes": e.bytes,
                }
                for e in self.entries
            ]  # fmt: skip
            record = {"facts": facts(), "model": str(self.model), "read_bytes_s": self.bandwidth, "entries": rows}
            write_atomic(Path(self.config.json), json.dumps(record, indent=2) + "\n")


def _step(texts: _symlm.Batch) -> list[_symlm.Drawn]:
    """The next tokens; a text that fails is an error here."""
    drawn = texts.step()
    for one in drawn:
        if one.error is not None:
            raise one.error
    return drawn
