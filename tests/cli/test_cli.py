"""The command line from outside: every bad input is one line with a hint and its exit code, before any long work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Cli


def check_refused(done: subprocess.CompletedProcess[str], code: int, message: str, folder: Path) -> None:
    """One line `error:`, one line `hint:`, the right exit code, nothing on standard output, no run left behind."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: ")
    assert not list(folder.glob("**/config.toml"))


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--batchsize", "3"], 2, "unknown flag --batchsize"),
        (["--preset", "4m"], 2, "--preset: expected one of"),
        (["--num-heads", "7"], 2, "7 heads do not divide the hidden size"),
        (["--num-kv-heads", "3"], 2, "3 key/value heads do not divide"),
        (["--hidden-size", "0"], 2, "--hidden-size: expected at least 2"),
        (["--hidden-size", "1000000000000"], 2, "--hidden-size: expected at most"),
        (["--seq-len", "-4"], 2, "--seq-len: expected at least 1"),
        (["--batch-size", "0"], 2, "--batch-size: expected at least 1"),
        (["--lr", "nan"], 2, "--learning-rate: expected a finite number"),
        (["--max-time", "soon"], 2, "--max-time: expected a duration"),
        (["--lr"], 2, "option '--lr' requires an argument"),
        (["--stop-at-step", "9"], 2, "--stop-at-step 9 is beyond --max-steps 5"),
        (["--seed", "99999999999999999999"], 2, "--seed: expected at most 9,223,372,036,854,775,807, found"),
        (["--beta2", "1"], 2, "--beta2: expected at most 0.9999999, found"),
        (["--threads", "none"], 2, "--threads: expected auto"),
        (["-c", "none.toml"], 2, "none.toml: cannot read the configuration"),
        (["--resume", "last"], 1, "no run to resume"),
        (["--tokenizer", "none.json"], 1, "none.json: no such tokenizer"),
        (["--vocab-size", "60000"], 3, ""),
        (["--val-data", "none.txt"], 3, "none.txt"),
        (["--out-dir", "text.txt"], 1, "text.txt: not a folder"),
        (["--out-dir", "/proc/no/run"], 1, "/proc/no/run: cannot write"),
    ],
)
def test_bad_flags(cli: Cli, text: Path, tmp_path: Path, flags: list[str], code: int, message: str) -> None:
    check_refused(cli("train", text.name, "--max-steps", 5, *flags), code, message, tmp_path)


def test_a_glob_without_a_match(cli: Cli, tmp_path: Path) -> None:
    check_refused(cli("train", "none/*.txt"), 3, "none/*.txt", tmp_path)


def test_missing_path(cli: Cli, tmp_path: Path) -> None:
    check_refused(cli("train", "none.txt"), 3, "none.txt", tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"  \n\n", b"too short", b"caf\xe9 au lait\n" * 1000, b"binary\0file\n" * 1000],
    ids=["empty", "blank", "short", "latin-1", "binary"],
)
def test_bad_text(cli: Cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    check_refused(cli("train", "bad.txt", "--vocab-size", 257, "--max-steps", 5), 3, "", tmp_path)


def test_folder_without_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_refused(cli("train", "empty"), 3, "empty", tmp_path)


def test_a_text_shorter_than_one_window(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a few words only. " * 30)
    done = cli("train", "short.txt", "--vocab-size", 257, "--seq-len", 2048, "--max-steps", 5)
    check_refused(done, 3, "", tmp_path)


def test_unknown_command_and_help(cli: Cli) -> None:
    done = cli("trian")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown command trian\nhint: did you mean train?\n"
    done = cli("train", "--help")
    assert done.returncode == 0
    assert "--sectors-in-flight" in done.stdout
    assert cli("--version").stdout.startswith("symlm ")


def test_unknown_key_in_a_file(cli: Cli, text: Path, tmp_path: Path) -> None:
    (tmp_path / "run.conf").write_text("lerning_rate = 1e-3\n")
    done = cli("train", text.name, "-c", "run.conf")
    check_refused(done, 2, 'run.conf: unknown key "lerning_rate"', tmp_path)
    assert "did you mean learning_rate?" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("batch_size = \n", "not valid TOML"),
        ("batch_size = [1]\n", "--batch-size: expected a whole number"),
        ("[model]\nnum_layers = 2\n", 'unknown table "[model]"'),
    ],
)
def test_bad_files(cli: Cli, text: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.conf").write_text(content)
    check_refused(cli("train", text.name, "-c", "run.conf"), 2, message, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message", "hint"),
    [
        ("SYMLM_BATCHSIZE", "3", "SYMLM_BATCHSIZE is not a setting", "did you mean SYMLM_BATCH_SIZE?"),
        ("SYMLM_CACHEDIR", "x", "SYMLM_CACHEDIR is not a setting", "did you mean SYMLM_CACHE_DIR?"),
        ("SYMLM_LR", "fast", "SYMLM_LR: --learning-rate: expected a number", "above 0, at most 100"),
    ],
)
def test_bad_environment(cli: Cli, text: Path, tmp_path: Path, name: str, value: str, message: str, hint: str) -> None:
    done = cli("train", text.name, env={name: value})
    check_refused(done, 2, message, tmp_path)
    assert hint in done.stderr


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    for words in ((), ("tokenizer",)):
        done = cli(*words)
        assert done.returncode == 2
        shown = done.stdout + done.stderr
        assert "error:" not in shown
        assert "\nCommands:\n" in shown


TINY = (
    "--vocab-size", 257, "--num-layers", 1, "--num-heads", 2, "--num-kv-heads", 1, "--hidden-size", 16,
    "--intermediate-size", 32, "--seq-len", 16, "--batch-size", 12, "--max-steps", 2, "--sample-every", 0,
    "--threads", 1,
)  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("progress", ["plain", "json", "rich"])
@pytest.mark.parametrize("broken", ["full", "pipe", "closed"])
def test_a_display_that_cannot_write_changes_no_exit_code(
    text: Path, environment: dict[str, str], progress: str, broken: str
) -> None:
    words = [sys.executable, "-m", "symlm", "train", text.name, *map(str, TINY), "--progress", progress]
    shell = {
        "full": '"$@" 2>/dev/full',
        "closed": '"$@" 2>&-',
        "pipe": '{ "$@" 2>&1 >&3 | true; exit ${PIPESTATUS[0]}; } 3>&1',
    }
    done = subprocess.run(
        ["bash", "-c", shell[broken], "bash", *words],
        cwd=text.parent,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert (text.parent / "runs").exists()


def test_json_progress_is_json_to_the_last_line(cli: Cli, text: Path) -> None:
    done = cli("train", text.name, *TINY, "--progress", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[-1]["text"].startswith("try it: symlm generate")


def test_unknown_instruction_set(cli: Cli, text: Path, tmp_path: Path) -> None:
    done = cli("train", text.name, env={"SYMLM_ISA": "avx9000"})
    check_refused(done, 2, "avx9000", tmp_path)


def test_bad_models(cli: Cli, tmp_path: Path) -> None:
    check_refused(cli("generate", "none"), 1, "none: no such model", tmp_path)
    check_refused(cli("generate", "."), 1, "neither a run folder nor a model folder", tmp_path)
    check_refused(cli("eval", "none", "x.txt"), 1, "none: no such model", tmp_path)
    check_refused(cli("generate", "none", "--top-p", "nan"), 2, "--top-p: expected a finite number", tmp_path)
    check_refused(cli("generate", "none", "--temperature", "-1"), 2, "--temperature: ", tmp_path)
    check_refused(cli("generate", "none", "--top-k", "-1"), 2, "--top-k: expected", tmp_path)


def test_debug_shows_the_traceback(cli: Cli) -> None:
    done = cli("generate", "none", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_tokenizer_commands(cli: Cli, text: Path, tmp_path: Path) -> None:
    done = cli("tokenizer", "train", text.name, "--vocab-size", 300, "--out", "t.json")
    assert done.returncode == 0, done.stderr
    assert cli("tokenizer", "train", text.name, "--vocab-size", 300, "--out", "t.json").returncode == 1
    sentence = "the quick brown fox — naïve <|endoftext|> 😀"
    ids = cli("tokenizer", "encode", sentence, "-t", "t.json").stdout
    assert all(0 < int(word) < 300 for word in ids.split())
    assert cli("tokenizer", "decode", "-t", "t.json", stdin=ids).stdout == sentence
    done = cli("tokenizer", "decode", "300", "-t", "t.json")
    check_refused(done, 2, "expected token ids below 300", tmp_path)
    check_refused(cli("tokenizer", "decode", "²", "-t", "t.json"), 2, "expected token ids below 300", tmp_path)


def test_doctor(cli: Cli) -> None:
    facts = json.loads(cli("doctor", "--json").stdout)
    assert facts["isa"] in facts["isa_available"]
    assert facts["threads_auto"] >= 1
    assert facts["fma_peak_gflops"] > 0
    assert facts["threads_auto_rule"] in cli("doctor").stdout


def test_import_is_light() -> None:
    code = (
        "import sys, symlm\n"
        "assert set(symlm.__all__) <= set(dir(symlm))\n"
        "heavy = {'numpy', 'rich', 'click', 'symlm._symlm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in symlm.__all__: getattr(symlm, name)\n"
        "assert callable(symlm.evaluate) and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
