"""The page at `/`: its files, which lie in the wheel, and what it needs to know about the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config.sampling import Sampling
from .prompts import Served

_FOLDER = Path(__file__).with_name("page")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
FILES = {path: ((_FOLDER / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}
"""Path -> content and its type."""


def page_settings(served: Served, defaults: Sampling) -> dict[str, Any]:
    """The model's name and limits, and the defaults of the controls."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
    return {
        "model": served.name,
        "context": served.context,
        "chat": served.chat_template is not None,
        "defaults": {name: getattr(defaults, name) for name in names},
    }
