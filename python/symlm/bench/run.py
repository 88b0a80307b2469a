"""A benchmark from its settings to its files."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.engine import engine_settings
from ..config.train_config import TrainConfig
from ..display import SafeDisplay, make_display
from ..errors import SymlmError, UserError, printable, reason
from ..run.metrics import to_document
from ..system.files import write_atomic
from ..system.machine import resolve_threads
from ..system.signals import Stopped, StopSignals
from ..system.target import check_folder, check_target
from ..text.corpus import Sources
from ..units import count_of, format_count, format_duration
from . import charts, network, report
from .cases import Plan, instruction_sets, plan
from .engines import HORIZON, Engines, load_tokens, timed_config
from .facts import facts
from .figures import Figures
from .peers import PeerFailed, TorchPeer, find_torch
from .record import Recorder, Row
from .rounds import Entry, Rounds
from .settings import BenchConfig, default_out_dir

RESULT = "bench.json"


class Bench:
    """One benchmark. `run` measures, prints and writes; after a signal it prints and writes the measurements so far."""

    def __init__(self, config: BenchConfig, train: TrainConfig) -> None:
        self.config = config
        self.threads, self.threads_rule = resolve_threads(train.threads)
        self.cores = _symlm.available_cpus().count
        isas = instruction_sets(_symlm.isa(), _symlm.available_isas())
        self.plan: Plan = plan(self.threads, isas, config.thread_counts, config.switches, train.precision)
        self.train = timed_config(train, train.model.vocab_size)
        self.signals = StopSignals()
        self.peers: list[TorchPeer] = []
        self.entries: list[Entry] = []
        self.rows: list[Row] = []
        self.network: list[network.NetworkRow] = []
        self.flops_per_token = 0.0
        self.complete = False

    def run(self) -> int:
        """Gives the exit code."""
        torch = find_torch(self.config.torch_python) if self.config.peers == "torch" else None
        _symlm.check_memory(engine_settings(self.train, self.threads, max_steps=HORIZON))
        sources = Sources(self.train, self.train.tokenizer) if self.train.data else None
        if self.config.json is not None:
            check_target("--json", self.config.json, sources.inputs if sources is not None else ())
        self.about = facts()
        folder, made = _make_folder(self.config.out_dir, self.train)
        display = make_display("auto")
        failure: SymlmError | None = None
        try:
            if not charts.available():
                display.warning(charts.MISSING)
            shards, vocab_size = load_tokens(self.train, sources, self.threads, display)
            self.train = timed_config(self.train, vocab_size)
            with self.signals, contextlib.suppress(Stopped):
                self._measure(shards, torch, display)
        except SymlmError as error:
            failure = error
        finally:
            display.close()
            for peer in self.peers:
                peer.close()
            measured = any(entry.turns for entry in self.entries)
            if not measured:
                with contextlib.suppress(OSError):
                    for path in made:
                        path.rmdir()
        if measured:
            self._publish(folder, display)
        if failure is not None:
            raise failure
        return 0 if self.signals.received is None else 128 + self.signals.received

    # --- measuring ------------------------------------------------------------------------------------------------

    def _measure(self, shards: _symlm.Shards, torch: str | None, display: SafeDisplay) -> None:
        engines = Engines(self.train, shards, self.signals)
        try:
            self.flops_per_token = engines.get(self.plan.base).flops_per_token
            self._say_hello(display)
            self._start_peers(torch, display)
            complete = self._rounds(engines, display)
            if complete and self.config.simulate:
                recorder = Recorder(engines, self.plan.base, quick=self.config.quick)
                self.rows = recorder.run(display.task("recording"), display.warning)
            if complete and self.config.simulate_network:
                self._simulate_network(engines, display)
            self.complete = complete
        finally:
            engines.close()

    def _simulate_network(self, engines: Engines, display: SafeDisplay) -> None:
        recorder = Recorder(engines, self.plan.base, quick=self.config.quick, workers=(self.threads,))
        recorder.run(display.task("recording"), display.warning)
        (recording,) = recorder.recordings
        model, batch = self.train.model, self.train.batch_size
        machines = network.Machines(recording.nodes, recording.graph(), model, batch, self.threads)
        measured = Figures(self.plan, self.entries, self.flops_per_token).medians(self.plan.base.name)["tok_s"]
        if measured is not None:
            self.network = network.rows(machines, measured, self.config.link_rates, self.config.link_seconds)

    def _say_hello(self, display: SafeDisplay) -> None:
        model, train = self.train.model, self.train
        gflop = self.flops_per_token * train.batch_size * model.seq_len / 1e9
        display.message(
            f"{format_count(model.parameters)} parameters, {count_of(train.batch_size, 'window')} of"
            f" {count_of(model.seq_len, 'token')}, {format_count(gflop) if gflop >= 10 else f'{gflop:.2g}'} GFLOP an"
            f" update; {count_of(self.threads, 'thread')} ({self.threads_rule}), {self.plan.base.isa}{self._integers()}"
        )

    def _integers(self) -> str:
        """Which instructions multiply integers, for display; empty in f32."""
        return "" if self.train.precision == "f32" else f", int16 by {_symlm.integer_instructions()}"

    def _start_peers(self, python: str | None, display: SafeDisplay) -> None:
        if python is None:
            return
        for compiled in (False, True):
            peer = TorchPeer(python, self.train, self.threads, compiled=compiled, signals=self.signals)
            self.peers.append(peer)
            display.message(f"starting {peer.name}{', which takes a minute or so' if compiled else ''}")
            try:
                peer.start()
                if peer.parameters != self.train.model.parameters:
                    raise PeerFailed(f"its model has {peer.parameters:,} parameters")
            except PeerFailed as failed:
                display.warning(f"{peer.name} is left out: {failed}")
                self.peers.remove(peer)
                peer.close()

    def _rounds(self, engines: Engines, display: SafeDisplay) -> bool:
        self.entries += [Entry(case.name, case=case) for case in self.plan.cases]
        self.entries += [Entry(peer.name, peer=peer) for peer in self.peers]
        rounds = Rounds(
            self.config,
            engines,
            list(self.entries),
            base=self.plan.base,
            tokens_per_update=self.train.batch_size * self.train.model.seq_len,
            signals=self.signals,
            warn=display.warning,
        )
        began = time.monotonic()
        move = display.task("measuring")
        done = rounds.run(move)
        if done:
            took = format_duration(time.monotonic() - began)
            rounds_of = f"{count_of(self.config.round_count, 'round')} of {count_of(len(self.entries), 'turn')}"
            display.message(f"{rounds_of} took {took}")
        return done

    # --- results --------------------------------------------------------------------------------------------------

    def _publish(self, folder: Path, display: SafeDisplay) -> None:
        figures = Figures(self.plan, self.entries, self.flops_per_token)
        text = to_document(self._record(figures))
        paths = [folder / RESULT, *([Path(self.config.json)] if self.config.json else [])]
        failure: OSError | None = None
        try:
            for path in paths:
                write_atomic(path, text)
        except OSError as error:
            failure = error
        report.show(figures, self.rows, self.cores)
        if self.network:
            report.show_network(self.network, self.train.batch_size, self.config.link_seconds)
        try:
            if failure is None and charts.available():
                paths += charts.draw(figures, self._title(), self.cores, folder)
        except ImportError:
            display.warning(charts.MISSING)
        except OSError as error:
            failure = error
        if failure is not None:
            where = failure.filename or folder
            raise UserError(f"{where}: cannot write the figures: {reason(failure)}", "choose another --out-dir")
        for path in paths:
            print(printable(str(path)))
        if not self.complete:
            name = "an error" if self.signals.received is None else signal.Signals(self.signals.received).name
            print(f"stopped by {name}: these are the figures up to then")

    def _record(self, figures: Figures) -> dict[str, Any]:
        model = self.train.model
        return {
            **self.about,
            "complete": self.complete,
            "model": model.as_dict(),
            "parameters": model.parameters,
            "batch_size": self.train.batch_size,
            "precision": self.train.precision,
            "threads": self.threads,
            "threads_rule": self.threads_rule,
            "rounds": self.config.round_count,
            **figures.as_dict(),
            "simulation": [row.as_dict() for row in self.rows],
            "network": [row.as_dict() for row in self.network],
        }

    def _title(self) -> str:
        model, machine = self.train.model, self.about["machine"]
        return (
            f"symlm {machine['symlm']}, {format_count(model.parameters)} parameters,"
            f" {self.train.batch_size} x {count_of(model.seq_len, 'token')}\n"
            f"{machine['cpu']}, {count_of(self.cores, 'core')}, {self.plan.base.isa}"
        )


def _make_folder(path: str | None, train: TrainConfig) -> tuple[Path, list[Path]]:
    """The folder of the results and the folders that were made for it, innermost first; UserError when it has
    results already or cannot be made."""
    folder = default_out_dir(train) if path is None else Path(path)
    if (folder / RESULT).exists():
        raise UserError(f"{folder / RESULT}: there is a benchmark already", "choose another --out-dir")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot make the folder: {reason(error)}", "choose another --out-dir") from None
    check_folder("--out-dir", folder, folder)
    return folder, made
