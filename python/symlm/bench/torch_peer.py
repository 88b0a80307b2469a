"""The same training update in PyTorch. Run as a script by an interpreter that has torch but need not have symlm.

Usage: torch_peer.py SPEC, a JSON object with model (as in ModelConfig), batch_size, threads, compile, and the numbers
of AdamW. Writes one JSON line when it is warm; then, for each line with a number of updates on standard input, one
with what they took. Ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

WARM_UP_UPDATES = 5


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding in half-rotation order; x is [batch, heads, positions, head]."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


class Block(nn.Module):
    """One transformer block: fused q/k/v and gate/up projections, as the step of symlm has them."""

    def __init__(self, m: dict[str, Any]) -> None:
        super().__init__()
        width, self.heads, self.kv_heads = m["hidden_size"], m["num_heads"], m["num_kv_heads"]
        self.head = width // self.heads
        self.sizes = [width, self.kv_heads * self.head, self.kv_heads * self.head]
        self.before, self.after = (nn.RMSNorm(width, m["rms_norm_eps"]) for _ in range(2))
        self.qkv = nn.Linear(width, sum(self.sizes), bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * m["intermediate_size"], bias=False)
        self.down = nn.Linear(m["intermediate_size"], width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Residual stream [batch, positions, width] through attention and MLP."""
        parts = self.qkv(self.before(x)).split(self.sizes, -1)
        q, k, v = (part.unflatten(-1, (-1, self.head)).transpose(1, 2) for part in parts)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        grouped = {"enable_gqa": True} if self.kv_heads != self.heads else {}
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, **grouped)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.after(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """A Llama model, its head tied to the embedding or not."""

    def __init__(self, m: dict[str, Any]) -> None:
        super().__init__()
        vocab, width = m["vocab_size"], m["hidden_size"]
        head = width // m["num_heads"]
        self.embedding = nn.Embedding(vocab, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(m) for _ in range(m["num_layers"]))
        self.norm = nn.RMSNorm(width, m["rms_norm_eps"])
        self.head = nn.Linear(width, vocab, bias=False)
        if m["tie_embeddings"]:
            self.head.weight = self.embedding.weight
        frequencies = m["rope_theta"] ** (-torch.arange(0, head, 2) / head)
        angles = torch.outer(torch.arange(m["seq_len"]), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean loss of windows [batch, positions + 1]."""
        x = self.embedding(ids[:, :-1])
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), ids[:, 1:].flatten())


class Step:
    """Updates on random ids."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.shape = (spec["batch_size"], spec["model"]["seq_len"] + 1)
        self.vocab, self.clip = spec["model"]["vocab_size"], spec["grad_clip"]
        self.model = Model(spec["model"])
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=spec["learning_rate"], betas=(spec["beta1"], spec["beta2"]), eps=spec["eps"],
            weight_decay=spec["weight_decay"], fused=True,
        )  # fmt: skip
        self.loss_of = torch.compile(self.model) if spec["compile"] else self.model

    def run(self, updates: int) -> float:
        """Seconds for some updates; making the batches does not count."""
        seconds = 0.0
        for _ in range(updates):
            ids = torch.randint(0, self.vocab, self.shape)
            began = time.perf_counter()
            self.loss_of(ids).backward()
            if self.clip > 0:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            seconds += time.perf_counter() - began
        return seconds


def main() -> None:
    """Warm up, then do as told by standard input."""
    # What libraries print must not come between the answers: their standard output is the standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    step = Step(spec)
    parameters = sum(parameter.numel() for parameter in step.model.parameters())
    step.run(WARM_UP_UPDATES)
    print(json.dumps({"version": torch.__version__, "parameters": parameters}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": step.run(int(line))}), file=answers, flush=True)


if __name__ == "__main__":
    main()
