"""What a run records about where it was made: `environment.json`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import _symlm
from ..config.train_config import TrainConfig
from ..system.machine import describe
from ..text.conversations import CHAT
from ..text.corpus import Prepared
from .initial import RECORD, Initial


def describe_run(
    config: TrainConfig, text: Prepared, threads: int, threads_rule: str, initial: Initial | None
) -> dict[str, Any]:
    """Command, text, model and machine of a run that begins now, as plain JSON values."""
    val = text.val
    began = {} if initial is None else {RECORD: initial.record()}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "contract": _symlm.CONTRACT_VERSION,
        "folder": str(Path.cwd()),
        "threads": threads,
        "threads_rule": threads_rule,
        "pid": os.getpid(),
        "data": {
            "files": text.train_files,
            "bytes_on_disk": text.train_bytes,
            "train_tokens": text.train.tokens,
            "train_bytes": text.train.bytes,
            "train_documents": text.train.documents,
            "train_targets": text.train.targets,
            "val_tokens": None if val is None else val.tokens,
            "val_bytes": None if val is None else val.bytes,
            **text.hashes,
        },
        **({} if text.chat is None else {CHAT: text.chat.record()}),
        **began,
        "parameters": config.model.parameters,
        "machine": describe(),
    }
