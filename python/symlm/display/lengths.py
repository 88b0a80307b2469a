"""A picture of how long documents or examples are. Needs matplotlib: pip install 'symlm[plot]'."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import UserError

_COLOURS = ("#0072b2", "#d55e00")
_BINS = 60


def draw_lengths(parts: Mapping[str, Sequence[int]], window: int, what: str, target: Path) -> None:
    """Draw the lengths of each part, in tokens, and a line at the length of a window; PNG or SVG.

    UserError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("matplotlib is not installed", "pip install 'symlm[plot]'") from None
    import numpy as np

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    longest = max((max(lengths) for lengths in parts.values() if lengths), default=1)
    edges = np.geomspace(1, longest + 1, _BINS)
    for (name, lengths), colour in zip(parts.items(), _COLOURS, strict=False):
        axes.hist(
            np.maximum(lengths, 1), bins=edges.tolist(), color=colour, alpha=0.6, label=f"{name}: {len(lengths):,}"
        )
    axes.axvline(window, color="#000000", linewidth=1, linestyle="--", label=f"window: {window:,} tokens")
    axes.set(xscale="log", yscale="symlog", xlabel="tokens", ylabel=what)
    axes.legend(frameon=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(target, dpi=150)
