"""One rank of the training update in PyTorch, by DistributedDataParallel over gloo. Run as a script by an interpreter
that has torch but need not have symlm.

Usage: ddp_rank.py SPEC, a JSON object as for `symlm/bench/torch_peer.py` with updates, warm_up, rank, world, address
and peer, the path of that script. Rank 0 prints the seconds of each update as JSON. A world of 1 runs without DDP.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from typing import Any

import torch
from torch import distributed, nn


def main() -> None:
    """Warm up, measure, say so."""
    spec: dict[str, Any] = json.loads(sys.argv[1])
    found = importlib.util.spec_from_file_location("torch_peer", spec["peer"])
    assert found is not None
    assert found.loader is not None
    peer = importlib.util.module_from_spec(found)
    found.loader.exec_module(peer)
    torch.set_num_threads(spec["threads"])
    rank, world = spec["rank"], spec["world"]
    torch.manual_seed(0)
    step = peer.Step({**spec, "batch_size": spec["batch_size"] // world})
    torch.manual_seed(rank)
    if world > 1:
        os.environ |= {"MASTER_ADDR": spec["address"], "MASTER_PORT": "29400"}
        distributed.init_process_group("gloo", rank=rank, world_size=world)
        step.loss_of = nn.parallel.DistributedDataParallel(step.model, gradient_as_bucket_view=True)
    seconds = []
    for _ in range(spec["warm_up"] + spec["updates"]):
        began = time.perf_counter()
        step.run(1)
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        print(json.dumps({"seconds": seconds[spec["warm_up"] :], "version": torch.__version__}), flush=True)
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
