"""Sees files and folders as they appear, move and go away, through the system's inotify."""

from __future__ import annotations

import ctypes
import os
import re
import select
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CREATED = 0x100
MOVED_HERE = 0x80
DELETED = 0x200
_FOLDER = 0x40000000
_HEADER = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Trigger:
    """A moment of a training run that shows in its files: `what` happens to a path that `pattern` ends."""

    name: str
    what: int
    pattern: str

    def fits(self, what: int, path: str) -> bool:
        """Whether an event is this one."""
        return bool(what & self.what) and re.search(self.pattern + "$", path) is not None


class Watch:
    """All that happens below a folder, folders that appear later included."""

    def __init__(self, *roots: Path) -> None:
        self._handle = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._folders: dict[int, Path] = {}
        self._pending: list[tuple[int, str]] = []
        for root in roots:
            self._add(root, told=False)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def _add(self, folder: Path, told: bool) -> None:
        number = _libc.inotify_add_watch(self._handle, os.fsencode(folder), CREATED | MOVED_HERE | DELETED)
        if number < 0:
            return  # Gone again.
        self._folders[number] = folder
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            # What came before the watch did; it may be told twice.
            if told:
                self._pending.append((CREATED, entry.path))
            if entry.is_dir(follow_symlinks=False):
                self._add(Path(entry.path), told)

    def _read(self, seconds: float) -> list[tuple[int, str]]:
        if not self._pending and select.select([self._handle], [], [], seconds)[0]:
            raw = os.read(self._handle, 1 << 16)
            at = 0
            while at < len(raw):
                number, mask, _, length = _HEADER.unpack_from(raw, at)
                at += _HEADER.size
                name = os.fsdecode(raw[at : at + length].rstrip(b"\0"))
                at += length
                folder = self._folders.get(number)
                if folder is None or not name:
                    continue
                self._pending.append((mask, str(folder / name)))
                if mask & _FOLDER and mask & (CREATED | MOVED_HERE):
                    self._add(folder / name, told=True)
        found, self._pending = self._pending, []
        return found

    def wait(self, trigger: Trigger, count: int, process: subprocess.Popen[bytes], timeout: float) -> bool:
        """Wait for the `count`-th time that the trigger comes; False when the process ends or time is up before."""
        end = time.monotonic() + timeout
        while process.poll() is None and time.monotonic() < end:
            for what, path in self._read(0.05):
                count -= trigger.fits(what, path)
                if count <= 0:
                    return True
        return False


def _file(name: str) -> str:
    return rf"/\.tmp-step-\d+/{re.escape(name)}"


WRITES = (
    Trigger("folder of a checkpoint", CREATED, r"/\.tmp-step-\d+"),
    Trigger("weights", CREATED, _file("model.safetensors")),
    Trigger("optimizer", CREATED, _file("optimizer.safetensors")),
    Trigger("trainer state", CREATED, _file("trainer_state.json")),
    Trigger("manifest", CREATED, _file("MANIFEST.json")),
    Trigger("checkpoint gets its name", MOVED_HERE, r"/checkpoints/step-\d+"),
    Trigger("pointer", CREATED, r"/\.tmp-last"),
    Trigger("pointer gets its name", MOVED_HERE, r"/last"),
    Trigger("best checkpoint", CREATED, r"/\.tmp-best"),
    Trigger("best checkpoint gets its name", MOVED_HERE, r"/best"),
    Trigger("old checkpoint goes away", DELETED, r"step-\d+/[^/]+"),
)
"""Instants inside the writing of checkpoints."""

SETUP = (
    Trigger("lock", CREATED, r"/\.lock"),
    Trigger("shards", CREATED, r"/\.shard-[^/]+"),
    Trigger("shards get their names", MOVED_HERE, r"\.ids"),
    Trigger("tokenizer", CREATED | MOVED_HERE, r"/tokenizer\.json"),
    Trigger("environment", MOVED_HERE, r"/environment\.json"),
    Trigger("folder of checkpoints", CREATED, r"/checkpoints"),
    Trigger("configuration", MOVED_HERE, r"/config\.toml"),
    Trigger("metrics", CREATED, r"/metrics\.jsonl"),
)
"""Instants of the first start of a run."""

READY = Trigger("the beginning of the updates", CREATED | MOVED_HERE, r"/metrics\.jsonl")
"""At a fresh start the file is made, later it is cut back to the step of the checkpoint: both in one piece."""
