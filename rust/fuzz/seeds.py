#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, `seeds/TARGET/NAME`: what is right, and what is wrong in one way."""

import bz2
import gzip
import hashlib
import json
import lzma
import struct
from pathlib import Path

HERE = Path(__file__).parent / "seeds"


def write(target: str, name: str, content: bytes | str) -> None:
    path = HERE / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def safetensors(header: object, data: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(data))


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


two = {"ab": entry([2, 2], 0, 16), "cd": entry([3], 16, 28)}
write("safetensors", "two", safetensors(two, 28))
write("safetensors", "three", safetensors({**two, "e": entry([1, 0], 28, 28)}, 28))
write("safetensors", "metadata", safetensors({"__metadata__": {"format": "pt"}, **two}, 28))
write("safetensors", "overlap", safetensors({"ab": entry([2, 2], 0, 16), "cd": entry([3], 12, 24)}, 24))
write("safetensors", "gap", safetensors({"ab": entry([2, 2], 0, 16), "cd": entry([3], 20, 32)}, 32))
write("safetensors", "huge_shape", safetensors({"ab": entry([2**62, 4], 0, 16), "cd": entry([3], 16, 28)}, 28))
write("safetensors", "other_type", safetensors({"ab": entry([2, 4], 0, 16, "BF16"), "cd": entry([3], 16, 28)}, 28))
write("safetensors", "huge_header", struct.pack("<Q", 2**63) + b"{}")
write("safetensors", "deep", safetensors(b"[" * 300, 0))

line = ',"ab":257,"cd":258,"abcd":259},"merges":["a b","c d","ab cd"]}\nabcd ab dc <|endoftext|> \u00e4\u6f22 can\'t'
pairs = line.replace('["a b","c d","ab cd"]', '[["a","b"],["c","d"],["ab","cd"]]')
write("tokenizer", "merges", "+" + line)
write("tokenizer", "pairs", "+" + pairs)
write("tokenizer", "ignore_merges", "+" + line.replace("]}", '],"ignore_merges":true}'))
write("tokenizer", "blanks", "+" + ',"\u0120a":257},"merges":["\u0120 a"]}\n  a\n a\t\u00a0a\r\n')
write("tokenizer", "makes_end", "+" + ',"<|":257,"endoftext|>":258},"merges":["<| endoftext|>"]}\nx')
write("tokenizer", "unknown", "+" + '},"merges":["a b"]}\nx')
write("tokenizer", "hole", "+" + ',"ab":300},"merges":["a b"]}\nx')
whole = {
    "version": "1.0",
    "added_tokens": [{"id": 0, "content": "<|endoftext|>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1}, "merges": [["a", "a"]]},
}
write("tokenizer", "whole.json", json.dumps(whole))
write("tokenizer", "unigram.json", json.dumps({**whole, "model": {"type": "Unigram", "vocab": [["a", 0.5]]}}))
write("tokenizer", "nested.json", '{"model":' + "[" * 300)

write("documents", "text", "one two\nthree\r\n  four\u00e4 \u6f22\u5b57 don't")
write("documents", "mark", "\ufeffwith a mark\ufeff")
write("documents", "cut", "half a character \u00e4".encode()[:-1])
write("documents", "lines", '{"text": "one"}\n\n{"n": [1, {}], "text": "t\\u00e9 \\ud83d\\ude00"}\r\n{"text":""}')
write("documents", "examples", '{"prompt": "", "completion": "b"}\n{"completion": "d", "n": 1, "prompt": "c"}\n')
write("documents", "array", '[{"text": "one"},\n {"n": [{}, "}"], "text": "two"} ]\n[]')
write("documents", "over_lines", '{\n "prompt": "a",\n "completion": "b"\n}\n{"prompt": "c", "completion": "d"}{')
write("documents", "trailing_comma", '[{"text": "one"},]')
write("documents", "not_finite", '{"n": [NaN, -Infinity], "text": "\\udc00"}')
write("documents", "half_a_pair", '{"text": "\\ud800"}')
write("documents", "twice", '{"text": "a", "text": "b"}')
write("documents", "numbers", '{"text": 1e999}\n{"text": 12345678901234567890123}')
write("documents", "deep", '{"x":' + "[" * 200 + "]" * 200 + ',"text":"a"}')
write("documents", "not_text", '{"text": [[], {"a": null}]}')
write("documents", "nul", b"a\0b")

packed = gzip.compress(b"some text\n" * 5, mtime=0)
write("gzip", "one", packed)
write("gzip", "two", packed + gzip.compress("zwei \u00e4".encode(), mtime=0))
write("gzip", "garbage", packed + b"garbage")
write("gzip", "zeros", packed + bytes(64))
write("gzip", "truncated", packed[:-5])
write("gzip", "wrong_sum", packed[:-8] + b"\1\2\3\4" + packed[-4:])
write("gzip", "named", b"\x1f\x8b\x08\x18" + bytes(6) + b"name\0comment\0" + packed[10:])
write("gzip", "extra", b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + b"x" * 100)
write("gzip", "members", b"\x04\x03" + b"text that is packed by the target")
write("gzip", "empty_member", gzip.compress(b"", mtime=0) + packed)


write("packing", "zstd_cut", b"\0\3" + b"\x28\xb5\x2f\xfd\x00\x58\x49\x00\x00some text")
write("packing", "zstd_packed", b"\0\3a text that is packed by the target")
write("packing", "zstd_skipped", b"\0\0\x50\x2a\x4d\x18\x04\0\0\0\1\2\3\4")
write("packing", "xz", b"\1\0" + lzma.compress(b"some text"))
write("packing", "xz_cut", b"\1\0" + lzma.compress(b"some text")[:-7])
write("packing", "bzip2", b"\2\0" + bz2.compress(b"some text"))
write("packing", "bzip2_packed", b"\2\1a text that is packed by the target")
write("csv", "plain", 'id,text\n1,a\n2,"b ""c"", d\ne"\r\n\n3,\n')
write("csv", "semicolons", "id;text\n1;a\n")
write("csv", "ragged", "id,text\n1\n")
write("csv", "open_quote", 'text\n"a\nb')
write("csv", "behind_a_quote", 'text\n"a" b\n')
write("csv", "nul", b"text\na\0b\n")
write("csv", "examples", 'prompt,completion\r"a","b"\r')


def numbers(tokens: int, vocab: int, width: int = 2, version: int = 1) -> bytes:
    return b"symlmids" + struct.pack("<IIQQQQ", version, width, tokens, 5, 1, vocab)


def shard(head: bytes, ids: bytes) -> bytes:
    head = (head + bytes(32) + hashlib.sha256(ids).digest()).ljust(224, b"\0")
    return head + hashlib.sha256(head).digest() + ids


ids = struct.pack("<4H", 0, 1, 299, 7)
write("shards", "whole", shard(numbers(4, 300), ids))
write("shards", "numbers", numbers(4, 300) + ids)
write("shards", "wide", numbers(2, 70_000, 4) + struct.pack("<2I", 69_999, 3))
write("shards", "beyond", numbers(4, 299) + ids)
write("shards", "huge", numbers(2**63, 300) + ids)
write("shards", "huge_vocab", numbers(2, 2**40, 4) + ids)
write("shards", "newer", numbers(4, 300, 2, 2) + ids)
write("shards", "none", numbers(0, 300))

model = {
    "vocab_size": 300, "hidden_size": 8, "intermediate_size": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1,
    "seq_len": 8, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "tie_embeddings": True,
}  # fmt: skip
train = {
    "batch_size": 4, "max_steps": 100, "learning_rate": 1e-3, "warmup_steps": 5, "decay_start": 80, "schedule": "wsd",
    "min_lr_ratio": 0.1, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "grad_clip": 1.0, "seed": 1,
}  # fmt: skip
write("config", "model", json.dumps(model))
for schedule in ("wsd", "cosine", "linear", "constant"):
    whole = {"model": model, "train": {**train, "schedule": schedule}, "threads": 2, "sectors_in_flight": 0}
    write("config", schedule, json.dumps(whole))
largest = {**model, "vocab_size": 2**20, "hidden_size": 2**16, "intermediate_size": 2**16, "num_layers": 2**10}
largest = {"model": {**largest, "seq_len": 2**15}, "train": {**train, "batch_size": 2**16}, "threads": 1024}
write("config", "largest", json.dumps(largest))
write("config", "infinite", json.dumps(model).replace("10000.0", "1e400"))
write("config", "negative", json.dumps(model).replace("300", "-1"))
write("config", "unknown", json.dumps({**model, "x" * 500: 1}))
