"""Names of processors as Linux shows them."""

from __future__ import annotations

import pytest

from symlm.system.processor import name_in

X86 = "processor\t: 0\nmodel name\t: Example CPU @ 2.00GHz\n\nprocessor\t: 1\nmodel name\t: Example CPU @ 2.00GHz\n"
BOARD = (
    "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\n\n"
    "processor\t: 4\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n\nModel\t\t: Example Board Rev 1\n"
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (X86, "Example CPU @ 2.00GHz"),
        (BOARD, "Arm Cortex-A55 + Arm Cortex-A76 (Example Board Rev 1)"),
        ("CPU implementer\t: 0x61\nCPU part\t: 0x022\n", "core 0x22 of implementer 0x61"),
        ("CPU implementer\t: many\nCPU part\t: some\n", None),
        ("", None),
    ],
)
def test_names(text: str, name: str | None) -> None:
    assert name_in(text) == name
