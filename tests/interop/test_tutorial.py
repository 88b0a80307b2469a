"""The whole tutorial, with the parts that need transformers and llama.cpp."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from console import run_tutorial

pytestmark = pytest.mark.interop


@pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers")
def test_its_models_answer_in_other_libraries(tmp_path: Path, environment: dict[str, str]) -> None:
    installed = {name for name in ("transformers", "llama_cpp") if find_spec(name) is not None}
    assert run_tutorial(tmp_path, environment, installed) == installed
