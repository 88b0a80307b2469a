"""Files that may hold anything: every reader gives its content or an error of symlm that names the file."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import symlm
from conftest import HANG_S, Cli
from symlm import _symlm
from symlm.config.model_config import ModelConfig
from symlm.config.sources import to_toml
from symlm.config.toml import parse_toml, read_toml
from symlm.config.train_config import TrainConfig
from symlm.errors import DataError, InternalError, SymlmError, UsageError
from symlm.layout import ENVIRONMENT, LAST, MANIFEST, METRICS, MODEL_CONFIG, OPTIMIZER, STATE, WEIGHTS
from symlm.run.checkpoint import State, read_manifest, verify
from symlm.run.folder import RunFolder
from symlm.run.metrics import read_lines, truncate_past
from symlm.system.reading import MOST_BYTES, parse_json, read_object
from symlm.training.opening import check_made_from

Reader = Callable[[Path], object]

STATE_TEXT = State({"contract": 1, "step": 3}, {"step": 3, "tokens": 9, "elapsed_s": 0.5}, {"model": {}, "train": {}})
FILES = {name: {"size": 1, "sha256": "0" * 64} for name in (WEIGHTS, OPTIMIZER, STATE, MODEL_CONFIG)}

READERS: dict[str, tuple[str, Reader, str]] = {
    "manifest": (MANIFEST, lambda path: read_manifest(path.parent), json.dumps({"version": 1, "files": FILES})),
    "state": (STATE, lambda path: State.read(path.parent), STATE_TEXT.to_json()),
    "shape": (MODEL_CONFIG, ModelConfig.from_hf, json.dumps(TrainConfig().model.to_hf())),
    "settings": ("config.toml", lambda path: TrainConfig(**read_toml(str(path)).values), to_toml(TrainConfig())),
    "environment": (ENVIRONMENT, lambda path: RunFolder(path.parent).environment(), '{"data": {"files": 1}}'),
    "metrics": (METRICS, lambda path: list(read_lines(path)), '{"event":"train","step":1}\n{"event":"end"}\n'),
    "pointer": (LAST, lambda path: RunFolder(path.parent).last(), "checkpoints/step-00000003\n"),
    "tokenizer": ("tokenizer.json", lambda path: _symlm.Tokenizer.from_file(str(path)), '{"model": {"type": "BPE"}}'),
}
"""Name -> file, reader, what the file may look like."""

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(5000),
    "binary": bytes(range(256)) * 8,
    "latin1": b'{"a": "\xe9"}',
    "mark": b"\xef\xbb\xbf{}",
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "deep and closed": b"[" * 50_000 + b"]" * 50_000,
    "deep state": b'{"engine":{},"config":{},"trainer":' + b'{"a":' * 200 + b"1" + b"}" * 201,
    "many digits": b'{"version": ' + b"9" * 10_000 + b"}",
    "many digits in toml": b"seed = " + b"9" * 10_000,
    "many hex digits in toml": b"seed = 0x" + b"f" * 10_000,
    "deep toml": b"data = " + b"[" * 10_000,
    "keys in keys": b".".join([b"a"] * 100_000) + b" = 1",
    "infinite": b'{"version": 1e400, "trainer": {"step": 1e400}, "engine": {}, "config": {}}',
    "not a number": b'{"version": NaN, "trainer": {"step": NaN, "tokens": NaN}, "engine": {}, "config": {}}',
    "surrogate": b'{"event": "sample", "text": "\\ud800"}',
    "wrong types": b'{"version": [1], "files": "x", "engine": 1, "trainer": null, "config": true, "model_type": {}}',
    "far away": b'{"version": 1, "files": {"../../etc/passwd": {"size": 1, "sha256": ""}}}',
    "control": b"../\x1b[2J\x07",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("reader", READERS)
def test_hostile_content_is_an_error_of_symlm_or_nothing(tmp_path: Path, reader: str, content: bytes) -> None:
    name, read, _ = READERS[reader]
    (tmp_path / name).write_bytes(content)
    try:
        read(tmp_path / name)
    except SymlmError as error:
        assert str(tmp_path) in error.message
        assert len(error.message) < 1000


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, reader: str) -> None:
    name, read, _ = READERS[reader]
    if reader == "settings":
        # A pipe is a fine place for settings: symlm train -c <(...).
        (tmp_path / name).mkdir()
    else:
        os.mkfifo(tmp_path / name)
    try:
        read(tmp_path / name)
    except SymlmError as error:
        assert str(tmp_path) in error.message


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    for reader, (name, _, _) in READERS.items():
        with (tmp_path / name).open("wb") as file:
            # Takes no place on the disk. All metrics are read, a line at a time.
            file.truncate(200 << 20 if reader == "metrics" else 5 << 30)
    script = (
        "import resource, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "from test_hostile_files import READERS\n"
        "from symlm.errors import SymlmError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "for name, read, _ in READERS.values():\n"
        "    try: read(Path(sys.argv[1], name))\n"
        "    except SymlmError: pass\n"
    )
    here = Path(__file__).parent
    words = [sys.executable, "-c", script, str(tmp_path), str(here), str(here.parent)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -1, 2**64, 1e308, "../x", "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, text: str) -> bytes:
    """The text with some bytes changed, cut out or put in; or with one of its JSON values replaced."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict) and draw(st.booleans()):
        place: Any = value
        while True:
            key = draw(st.sampled_from(sorted(place)))
            if not (isinstance(place[key], dict) and place[key] and draw(st.booleans())):
                break
            place = place[key]
        if draw(st.booleans()):
            place[key] = draw(JSON)
        else:
            del place[key]
        return json.dumps(value).encode()
    raw = bytearray(text.encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        cut = draw(st.integers(0, 8))
        raw[at : at + cut] = draw(st.binary(max_size=8))
    return bytes(raw)


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_errors_of_symlm_leave_a_reader(tmp_path: Path, reader: str, data: st.DataObject) -> None:
    name, read, text = READERS[reader]
    (tmp_path / name).write_bytes(data.draw(changed(text)))
    try:
        read(tmp_path / name)
    except SymlmError as error:
        assert "\n" not in error.message and str(tmp_path) in error.message


@given(JSON)
@settings(max_examples=100)
@example(10**10_000)
@example({"step": float("inf")})
def test_settings_of_any_type(value: Any) -> None:
    for name in ("seed", "learning_rate", "data", "save_interval", "preset", "tie_embeddings", "threads"):
        try:
            TrainConfig(**{name: value})
        except UsageError as error:
            assert len(error.message) < 1000


def test_json_has_a_depth() -> None:
    assert parse_json("[" * 30 + "]" * 30)
    with pytest.raises(ValueError, match="deeper than 32"):
        parse_json("[" * 40 + "]" * 40)
    with pytest.raises(ValueError, match="10,000 digits"):
        parse_json("9" * 10_000)


def test_files_have_a_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("{}" + " " * (MOST_BYTES - 2))
    assert read_object(path, "manifest") == {}
    path.write_text("{}" + " " * (MOST_BYTES - 1))
    with pytest.raises(DataError, match="found more than 1,048,576 bytes"):
        read_object(path, "manifest")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", ".", "..", "", "a\0b", "x" * 300, MANIFEST])
def test_a_manifest_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    manifest = {"version": 1, "files": {**FILES, name: FILES[WEIGHTS]}}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="names of files in its folder"):
        verify(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "that wrote it"),
        ({"version": True}, "version: found True"),
        ({"files": {**FILES, WEIGHTS: {"size": -1, "sha256": "0" * 64}}}, "size: found -1"),
        ({"files": {**FILES, WEIGHTS: {"size": 1, "sha256": "0" * 63}}}, "expected a sha256"),
        ({"files": {name: entry for name, entry in FILES.items() if name != OPTIMIZER}}, "is not listed"),
    ],
)
def test_a_manifest_is_complete_and_has_numbers(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"version": 1, "files": FILES, **change}))
    with pytest.raises(DataError) as caught:
        verify(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("trainer", {"step": 10**30}),
        ("trainer", {"step": True}),
        ("trainer", {"step": "3"}),
        ("trainer", {"step": 4}),
        ("trainer", {"tokens": -1}),
        ("trainer", {"elapsed_s": "x"}),
        ("trainer", {"best_val_bpb": [1]}),
        ("trainer", {"best_step": 1.5}),
        ("trainer", {"best_step": float("inf")}),
        ("trainer", {"data": 1}),
        ("engine", {"step": 4}),
    ],
)
def test_a_state_has_the_numbers_of_a_run(tmp_path: Path, part: str, change: dict[str, Any]) -> None:
    raw = json.loads(STATE_TEXT.to_json())
    (tmp_path / STATE).write_text(json.dumps(raw))
    assert State.read(tmp_path).step == 3
    raw[part].update(change)
    (tmp_path / STATE).write_text(json.dumps(raw))
    with pytest.raises(DataError, match="trainer state"):
        State.read(tmp_path)


def test_a_run_that_was_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    train = {"learning_rate": 0.1, "seed": 1, "schedule": "wsd", "max_steps": 100, "decay_start": 80}
    now = {"model": {"vocab_size": 300}, "train": train, "threads": 2}

    def check(step: int, **changes: Any) -> None:
        made_from = {"model": {"vocab_size": 300}, "train": {**train, **changes}}
        check_made_from(tmp_path, State({}, {"step": step}, json.loads(json.dumps(made_from))), now)

    check(90)
    # A longer run resumes from before its decay.
    check(50, max_steps=60, decay_start=50)
    for step, changes in [(50, {"seed": 2}), (50, {"x": 1}), (60, {"max_steps": 60, "decay_start": 50})]:
        with pytest.raises(DataError, match="was made with"):
            check(step, **changes)
    with pytest.raises(DataError, match="was made with"):
        check_made_from(tmp_path, State({}, {"step": 1}, {"train": []}), now)


@pytest.mark.parametrize(
    "name", ["checkpoints", "/etc", "../run", "checkpoints/../..", "checkpoints/step-1", "x" * 5000]
)
def test_the_pointer_names_a_checkpoint_or_nothing(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path)
    run.checkpoint_path(3).mkdir(parents=True)
    run.point_last(3)
    assert run.last() == run.checkpoint_path(3)
    (tmp_path / LAST).write_text(name)
    assert run.last() is None


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    run.checkpoint_path(3).parent.mkdir(parents=True)
    run.checkpoint_path(3).symlink_to(tmp_path / "elsewhere")
    run.point_last(3)
    assert run.last() is None


def test_metrics_keep_their_lines(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    good = ['{"event":"train","step":1, "text":"\\ud800"}', '{"event":"train","step":2,"x":1e400}']
    long = '{"event":"end","x":"' + "y" * (1 << 20) + '"}'
    deep = '{"event":"end","x":' + "[" * 5000 + "]" * 5000 + "}"
    path.write_text("\n".join([good[0], long, deep, "{", "3", good[1], '{"step":3}', '{"step":1']))
    assert [record["step"] for record in read_lines(path)] == [1, 2, 3]
    assert truncate_past(path, 2) == 1
    assert path.read_text() == "\n".join(good) + "\n"


def test_settings_may_begin_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfseed = 7\r\n")
    assert read_toml(str(tmp_path / "a.toml")).values == {"seed": 7}
    with pytest.raises(UsageError, match="more than 64 parts"):
        parse_toml("a." * 65 + "b = 1")


def test_a_panic_is_an_internal_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InternalError, match=r"panic in the core: .*probe\.rs:\d+: as the test asked") as caught:
        _symlm.Probe.panic()
    assert caught.value.exit_code == 70
    assert capfd.readouterr().err == ""


def test_names_cannot_control_the_terminal(cli: Cli, tmp_path: Path) -> None:
    result = cli("train", "gone\x1b[2J\x07.txt")
    assert (result.returncode, "\x1b" in result.stderr, "\x07" in result.stderr) == (3, False, False)


def test_a_tokenizer_of_another_run_is_not_used(cli: Cli, text: Path, tmp_path: Path) -> None:
    made = cli("train", text, "--preset", "tiny", "--vocab-size", 300, "--max-steps", 2, "--out-dir", "run")
    assert made.returncode == 0, made.stderr
    run = tmp_path / "run"
    raw = json.loads((run / "tokenizer.json").read_text())
    a, b = raw["model"]["merges"][:2]
    raw["model"]["merges"][:2] = [b, a]
    (run / "tokenizer.json").write_text(json.dumps(raw))
    for words in (["generate", "run"], ["eval", "run", text], ["tokenizer", "encode", "-t", "run", "x"]):
        result = cli(*words)
        assert result.returncode == 3, result.stderr
        assert "not the tokenizer that the run was started with" in result.stderr


NEVER = {"pickle", "marshal", "shelve", "dill", "joblib", "yaml", "runpy", "cloudpickle"}


@pytest.mark.parametrize("path", sorted(Path(symlm.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_that_is_read_is_executed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {name.partition(".")[0] for name in names} & NEVER, f"{path}:{node}"
        if isinstance(node, ast.Call):
            called = node.func
            name = called.id if isinstance(called, ast.Name) else ""
            assert name not in {"eval", "exec", "compile", "__import__"}, f"{path}:{node.lineno}"
            if isinstance(called, ast.Attribute) and called.attr in {"load", "unsafe_load"}:
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                assert owner not in {"torch", "np", "numpy"}, f"{path}:{node.lineno}"
