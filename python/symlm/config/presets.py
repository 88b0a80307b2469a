"""Named model sizes. A preset fixes shape, vocabulary, window length and a start value of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """One row of the table of sizes; see `PRESETS`."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    seq_len: int
    learning_rate: float
    tie_embeddings: bool = True


PRESETS: dict[str, Preset] = {
    "tiny": Preset(2, 4, 4, 128, 256, 512, 128, 4e-3),
    "1m": Preset(4, 4, 4, 128, 384, 1024, 128, 4e-3),
    "3m": Preset(4, 8, 8, 256, 512, 1024, 128, 3e-3),
    "12m": Preset(6, 6, 6, 384, 1024, 4096, 256, 2e-3),
    "30m": Preset(8, 8, 4, 512, 1536, 8192, 512, 1.5e-3),
    "100m": Preset(12, 12, 4, 768, 2048, 32768, 512, 8e-4),
}

PRESET_WITHOUT_DATA = "tiny"
PRESET_WITH_DATA = "3m"
