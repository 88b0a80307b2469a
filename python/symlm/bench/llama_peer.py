"""What runs in the process of a `LlamaPeer`: llama.cpp, a task a line. It does not import symlm."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main(spec: dict[str, Any]) -> None:
    """Loads the model and does what it is told until its input ends."""
    import llama_cpp

    model = llama_cpp.Llama(
        spec["path"], n_ctx=spec["positions"], n_threads=spec["threads"], n_threads_batch=spec["threads"],
        logits_all=False, verbose=False,
    )  # fmt: skip
    model.eval([1])
    print(json.dumps({"version": llama_cpp.__version__, "parameters": 0}), flush=True)
    for line in sys.stdin:
        task, count = line.split()
        model.reset()
        if task == "decode":
            model.eval([1])
        begin = time.perf_counter()
        if task == "decode":
            for token in range(int(count)):
                model.eval([token % 200 + 1])
        else:
            model.eval([token % 200 + 1 for token in range(int(count))])
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
