"""What general compressors make of a text, in the unit in which models are compared."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable
from typing import Protocol

from ..errors import DataError, UsageError, shown
from ..system.values import items
from ..units import did_you_mean

_MOST_DICTIONARY = 64 << 20
"""That of `xz -9`."""

_LEAST_DICTIONARY = 4096
_GZIP_HEADER = 31
"""Of zlib: the largest window, with the header and trailer of gzip."""


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _xz(size: int) -> _Compressor:
    # A dictionary beyond the text would only take memory: ten times its size.
    dictionary = min(max(size, _LEAST_DICTIONARY), _MOST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)


_MAKE: dict[str, Callable[[int], _Compressor]] = {
    "gzip": lambda _: zlib.compressobj(9, zlib.DEFLATED, _GZIP_HEADER),
    "bzip2": lambda _: bz2.BZ2Compressor(9),
    "xz": _xz,
}
_ALIASES = {"gz": "gzip", "bz2": "bzip2", "lzma": "xz"}
COMPRESSORS = tuple(_MAKE)


def parse_compressors(text: str) -> tuple[str, ...]:
    """The names in `gzip,xz`, each once; UsageError for one that is not known."""
    names: list[str] = []
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        name = _ALIASES.get(word, word)
        if name not in _MAKE:
            near = did_you_mean(word, COMPRESSORS)
            hint = f"did you mean {near}?" if near else f"--against takes {', '.join(COMPRESSORS)}, or some of them"
            raise UsageError(f'--against: unknown compressor "{word[:40]}"', hint)
        if name not in names:
            names.append(name)
    return tuple(names)


def known_compressors(names: object) -> tuple[str, ...]:
    """Names of compressors, one or several, each once; UsageError for one that is not known."""
    known = ", ".join(COMPRESSORS)
    given = (names,) if isinstance(names, str) else items("against", names, f"a list of {known}")
    for name in given:
        if not isinstance(name, str) or name not in COMPRESSORS:
            raise UsageError(f"against: found {shown(name)}, expected {known}")
    return tuple(dict.fromkeys(given))


def compressed_sizes(
    blocks: Iterable[bytes], size: int, names: Iterable[str], progress: Callable[[int, int], None]
) -> dict[str, int]:
    """Bytes that each compressor needs for a text of `size` bytes at its level 9, in one stream and bounded memory.

    DataError when the `blocks` are not that many bytes, as those of a tokenizer that does not keep every one.
    """
    compressors = {name: _MAKE[name](size) for name in names}
    sizes = dict.fromkeys(compressors, 0)
    done = 0
    if not compressors:
        return sizes
    for block in blocks:
        for name, compressor in compressors.items():
            sizes[name] += len(compressor.compress(block))
        done += len(block)
        progress(done, size)
    if done != size:
        raise DataError(f"the tokenizer gives back {done:,} bytes of a text of {size:,}", "leave --against out")
    return {name: sizes[name] + len(compressor.flush()) for name, compressor in compressors.items()}
