"""Words and turns of phrase that the repository does not use: CONTRIBUTING.md's table, and what is not English."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest

from console import ROOT, tracked

# A space of a pattern also matches the end of a line and the mark of a comment on the next one.
_GAP = r"(?:[ \t]*\n[ \t]*(?://[/!]?|#|>)?[ \t]*|[ \t]+)"

TABLE = {
    "iteration": r"iterations?",
    "go on": r"(?:go|goes|going|gone|went) on(?! (?:the|their) (?:stack|heap))",
    "data set": r"data ?sets?|data-sets?",
    "stretch": r"(?:a|any|each|every|next|one|the) stretch(?:es)?|stretch(?:es)? of",
    "head size": r"head(?:_|-| )sizes?",
    "gradient_norm": r"gradient_norm",
    "separator": r"separator",
    "directory": r"director(?:y|ies)",
}
"""The words in italics in the table of CONTRIBUTING.md, each with its pattern."""

CALQUES = {
    "a training": (
        r"(?:a|each|every|another|one|this) training"
        r"(?! (?:run|text|window|step|update|token|batch|loss|loop|process|set))",
        "a training run, or training",
    ),
    "trainings": (r"trainings", "runs"),
    "is no X": (
        r"(?:is|are|was|were) no"
        r"(?! (?:longer|more|less|fewer|better|worse|faster|slower|larger|smaller|other|one))(?= [a-z])",
        "is not an X",
    ),
    "of its own": (r"of (?:its|their|his) own(?! \w)", "its own X, a separate X"),
    "of its own X": (r"of (?:its|their|his) own (?:accord|kind|sort)", "by itself"),
    "for people": (r"for people", "readable, for display"),
    "anew": (r"anew", "again, afresh"),
    "give way": (r"(?:give|gives|gave|given|giving) way", "is replaced"),
    "made up for": (r"(?:make|makes|made) up for", "is recreated"),
    "found out": (r"(?:is|are|be|was|were) found out", "is noticed, is reported"),
    "in good order": (r"in good order", "cleanly"),
    "are no good": (r"(?:is|are|was|were) no good", "is unusable"),
    "looked at": (r"(?:is|are|was|were|be) looked (?:at|through)", "is checked, is read"),
    "comes again": (r"(?:come|comes) again", "is repeated, is recomputed"),
    "no numbers": (r"no numbers", "not finite"),
    "informations": (r"informations|softwares|datas|feedbacks", "no plural"),
    "allows to": (r"(?:allow|allows|permits|enables) to", "lets you"),
    "depends from": (r"depend(?:s|ed|ing)? from", "depends on"),
    "possibility to": (r"possibility to", "can"),
    "since long": (r"since long|since ever", "for a long time"),
    "until now": (r"up to now on", "so far"),
    "thereby": (r"thereby|therewith|hereby|wherefore|wherein|whereof", "so, with it"),
    "respectively": (r"(?:resp\.|respectively)", "say which is which"),
}
"""What is not English, each with its pattern and what an engineer says instead."""

KEPT: Mapping[str, tuple[str, str]] = {
    "directory": (
        r"no such file or directory|not a directory|is a directory|working directory|TemporaryDirectory"
        r"|temporary directory|directory not empty",
        "messages of the operating system, the process's working directory, names of the library",
    ),
    "is no X": (r"there (?:is|are|was|were) no", "nothing is called anything here"),
    "are no good": (r"there (?:is|are|was|were) no good", "nothing is called anything here"),
    "gradient_norm": (r"\"gradient_norm\"", "a field of numbers.json"),
    "iteration": (r"StopIteration|stopiteration", "names of the library"),
    "data set": (r"datasets?|dataset_dict|dataset_info", "the library of that name, and what it saves"),
    "separator": (r"separator_", "`str.separator` of a library"),
}
"""Uses of a word that stay, each with the reason."""

EXEMPT: Mapping[str, str] = {
    "tests/docs/test_words.py": "names the words",
    "docs/reference-run.md": "quotes what a model wrote",
    "rust/fuzz/seeds/": "inputs of fuzz targets, as they were found",
}
"""Files and folders that are not searched, each with the reason."""

PATTERNS = {**TABLE, **{name: pattern for name, (pattern, _) in CALQUES.items()}}


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{pattern.lower().replace(' ', _GAP)})(?![\w-])")


_COMPILED = {name: _compiled(pattern) for name, pattern in PATTERNS.items()}
_KEPT = {name: _compiled(pattern) for name, (pattern, _) in KEPT.items()}


def wrong(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and text of every word that is out. Spans of code are text like any other."""
    text = text.lower()
    for name, pattern in _COMPILED.items():
        spared = [match.span() for match in _KEPT[name].finditer(text)] if name in _KEPT else []
        for match in pattern.finditer(text):
            # Here and not in the pattern, where it would be tried at every character.
            inside_word = re.match(r"[\w-]", text[match.start() - 1 : match.start()])
            if not inside_word and not any(start <= match.start() and match.end() <= end for start, end in spared):
                yield text.count("\n", 0, match.start()) + 1, name, " ".join(match[0].split())


def searched() -> list[str]:
    """Code and documents that are searched, by their paths from the root."""
    found = tracked("*.py", "*.pyi", "*.rs", "*.md", "*.toml", "*.sh", "Makefile")
    return [name for name in found if not name.startswith(tuple(EXEMPT))]


def not_column() -> list[str]:
    """The words in italics in the table of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("\n## Words\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    return [word for row in rows for word in re.findall(r"\*([^*]+)\*", row[-2])]


def test_the_table_of_words_is_the_one_that_is_searched_for() -> None:
    assert sorted(not_column()) == sorted(TABLE)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the run goes on from there", "go on"),
        ("# the run goes\n    # on from there", "go on"),
        ("/// the run went\n    /// on", "go on"),
        ("what a training takes", "a training"),
        ("two trainings", "trainings"),
        ("the header is no object", "is no X"),
        ("a thread of its own.", "of its own"),
        ("the temporary folder, a directory", "directory"),
        ("head_size = 3", "head size"),
        ("a Data Set", "data set"),
        ("gradient_norm: float", "gradient_norm"),
        ("it ends in good order", "in good order"),
        ("is written anew", "anew"),
    ],
)
def test_a_word_that_is_out_is_found(text: str, name: str) -> None:
    assert name in [found for _, found, _ in wrong(text)]


@pytest.mark.parametrize(
    "text",
    [
        "a training run and training windows; retraining",
        "there is no object, it is no longer there",
        "cannot open x: no such file or directory",
        "from the working directory; with tempfile.TemporaryDirectory() as folder",
        "separators=(',', ':')",
        "stretched frequencies of its own window",
        "ego on; goes only",
    ],
)
def test_english_passes(text: str) -> None:
    assert list(wrong(text)) == []


@pytest.mark.parametrize("pattern", sorted(KEPT))
def test_exceptions_are_of_words_that_are_searched_for(pattern: str) -> None:
    assert pattern in PATTERNS


def test_exempt_paths_exist() -> None:
    files = tracked()
    assert [path for path in EXEMPT if not any(name.startswith(path) for name in files)] == []


def test_no_word_that_is_out_is_used() -> None:
    better = {name: instead for name, (_, instead) in CALQUES.items()}
    problems = []
    for name in searched():
        text = (ROOT / name).read_text(encoding="utf-8")
        for line, kind, found in wrong(text):
            # The table itself names its words.
            if name == "CONTRIBUTING.md" and f"*{kind}*" in text.splitlines()[line - 1]:
                continue
            hint = better.get(kind, "see the table of words in CONTRIBUTING.md")
            problems.append(f"{name}:{line}: {found!r} ({hint})")
    assert problems == []
