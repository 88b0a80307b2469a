"""A server in another process, with a model that was trained for the tests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

HANG_S = 1200
"""As in conftest.py, which imports this file."""

SHAPE = {
    "vocab-size": 300, "hidden-size": 32, "intermediate-size": 32, "num-layers": 1, "num-heads": 2, "num-kv-heads": 2,
    "seq-len": 64,
}  # fmt: skip
CONTEXT = SHAPE["seq-len"]
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "café", "and", "sleeps", "near")


_START = "import runpy; runpy.run_module('symlm', run_name='__main__', alter_sys=True)"


def clean_environment(folder: Path) -> dict[str, str]:
    """The variables of this process without settings of symlm."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SYMLM_") or key == "SYMLM_ISA"}
    return {**kept, "SYMLM_CACHE_DIR": str(folder / "cache")}


def train(folder: Path, *more: str, indent: int = 0) -> Path:
    """A run of a small model; `more` are flags. Lines of its text begin with up to `indent` times four blanks."""
    text = (" ".join(_WORDS[(i * k + k) % len(_WORDS)] for k in range(1, 12)) for i in range(800))
    lines = (" " * 4 * (i % (indent + 1)) + line + "." for i, line in enumerate(text))
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    words = [word for name, value in SHAPE.items() for word in (f"--{name}", str(value))]
    limits = ["--max-steps", "30", "--batch-size", "12", "--threads", "1", "--progress", "off", "--sample-every", "0"]
    subprocess.run(
        [sys.executable, "-m", "symlm", "train", "text.txt", "--out-dir", "model", *words, *limits, *more],
        cwd=folder,
        env=clean_environment(folder),
        check=True,
        capture_output=True,
        timeout=HANG_S,
    )
    return folder / "model"


def export(model: Path, folder: Path, *, end: int | None = None) -> Path:
    """The model as a folder of transformers, with the token `end` as the one that ends texts if it is given."""
    command = [sys.executable, "-m", "symlm", "export", str(model), "--to", "hf", "--out", str(folder)]
    subprocess.run(command, env=clean_environment(model.parent), check=True, capture_output=True, timeout=HANG_S)
    for name in ("config.json", "generation_config.json") if end is not None else ():
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "eos_token_id": end}))
    return folder


class Served:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str, said: list[str]) -> None:
        import httpx

        self.process, self.url, self.said = process, url, said
        self.port = int(url.rpartition(":")[2])
        self.client = httpx.Client(base_url=url, timeout=HANG_S, trust_env=False)

    def post(self, path: str, body: dict[str, Any], **keywords: Any) -> httpx.Response:
        """The answer to an object of JSON."""
        return self.client.post(path, content=json.dumps(body), **keywords)

    def complete(self, **body: Any) -> dict[str, Any]:
        """The completion that a request gives, which must be answered."""
        answer = self.post("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The objects of a stream, which must end as streams do."""
        answer = self.post(path, {**body, "stream": True})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        parts = [part for part in answer.text.split("\n\n") if part and not part.startswith(":")]
        assert all(part.startswith("data: ") for part in parts)
        assert parts[-1] == "data: [DONE]"
        return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]

    def metric(self, name: str) -> float:
        """A number of `/metrics`."""
        found = re.search(rf"^symlm_{name} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End the server; gives its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(HANG_S)


@contextlib.contextmanager
def serving(model: Path, *words: str, patch: str = "", **variables: str) -> Iterator[Served]:
    """A server at a free port, which ends with the block. `patch` is Python that runs in its process first."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{patch}\n{_START}", "serve", str(model), "--port", "0", *words],
        env={**clean_environment(model.parent), **variables},
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert process.stderr is not None
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    try:
        for line in process.stderr:
            said.append(line)
            found = re.search(r"serving .* at (http://\S+:\d+)", line)
            if found is not None:
                reader.start()
                server = Served(process, found[1], said)
                with server.client:
                    yield server
                break
        else:
            raise AssertionError(f"the server did not start: {''.join(said)}")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(HANG_S)
        if reader.ident is not None:
            reader.join()
        process.stderr.close()
