"""Which rules each version of the numeric contract changed, and for which runs.

A run keeps its bits through a new version as long as every rule that its settings use is unchanged. The rules of
version 2 decide nothing but token ids, and a run knows the hash of its ids: where these come out as before, nothing has
changed for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..text.corpus import Prepared


@dataclass(frozen=True)
class Change:
    """A rule that a version changed, and whether the tokens of a run depend on it."""

    version: int
    rule: str
    what: str
    reaches: Callable[[Prepared], bool]

    def __str__(self) -> str:
        return f"rule {self.rule} changed with version {self.version} of the numeric contract: {self.what}"


CHANGES = (
    Change(
        2,
        "T8",
        "prompt and completion are encoded as one text",
        lambda prepared: prepared.train.window is not None,
    ),
    Change(
        2,
        "T12",
        "where a text is cut, the tokenizer of a model from elsewhere puts no blank",
        lambda prepared: prepared.train.window is None and prepared.tokenizer.marks_beginning,
    ),
)
"""Every change of a rule since version 1."""


def changes_since(version: int, prepared: Prepared) -> list[Change]:
    """The changes after `version` that the tokens of a run depend on."""
    return [change for change in CHANGES if change.version > version and change.reaches(prepared)]
