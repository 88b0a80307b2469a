"""Counters in the text format of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Histogram:
    """How many seconds something took."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> list[str]:
        """As Prometheus reads it: each bucket with those below it."""
        found, total = [], 0
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._counts, strict=True):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """What the server has done so far."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """Path of a route, status -> requests."""
        self.prompt_tokens = 0
        self.written_tokens = 0
        self.left = 0
        """Requests whose clients left before the end."""
        self.first_token = Histogram()
        self.whole = Histogram()

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Everything; `gauges` are the numbers of this moment, each with what it is."""
        lines: list[str] = []

        def head(name: str, kind: str, what: str) -> None:
            lines.extend([f"# HELP symlm_{name} {what}", f"# TYPE symlm_{name} {kind}"])

        head("requests_total", "counter", "Requests that were answered.")
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'symlm_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, what, value in (
            ("prompt_tokens_total", "Tokens of prompts.", self.prompt_tokens),
            ("written_tokens_total", "Tokens that were written.", self.written_tokens),
            ("clients_left_total", "Requests whose client left before the end.", self.left),
        ):
            head(name, "counter", what)
            lines.append(f"symlm_{name} {value}")
        for name, (what, number) in gauges.items():
            head(name, "gauge", what)
            lines.append(f"symlm_{name} {number:g}")
        for name, what, histogram in (
            ("first_token_seconds", "From a request to its first token.", self.first_token),
            ("request_seconds", "From a request for text to its end.", self.whole),
        ):
            head(name, "histogram", what)
            lines.extend(histogram.lines(f"symlm_{name}"))
        return "\n".join(lines) + "\n"
