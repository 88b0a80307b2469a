"""What a benchmark compares: cases of the two precisions."""

from __future__ import annotations

import dataclasses

from symlm.bench.cases import plan


def test_integers_are_compared_with_f32_on_every_instruction_set() -> None:
    found = plan(2, ["avx512", "avx2"], [], True, "int16")
    assert found.base.precision == "int16" and "int16" in found.base.name
    pairs = {c.name: (c.on, c.off) for c in found.comparisons if c.name.startswith("int16")}
    assert list(pairs) == ["int16, not f32, avx512", "int16, not f32, avx2"]
    for on, off in pairs.values():
        assert off == dataclasses.replace(on, precision="f32")
    assert [c.name for c in plan(2, ["avx512", "avx2"], [], False, "int16").comparisons] == ["int16, not f32, avx512"]
    assert not any("int16" in case.name for case in plan(2, ["avx512", "avx2"], [1, 2], True).cases)
