"""A text that the model cannot write is an error of its request; the other requests get their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from planted import overwrite, tensors
from served import Served, serving, train
from symlm import Generator, _symlm
from symlm.errors import NanError
from symlm.layout import BEST, WEIGHTS
from symlm.serve.scheduler import Scheduler, Sequenced, Told

BAD = 299
"""A token whose row of the embedding is damaged."""


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model is damaged where one token reads it, and nowhere else."""
    run = train(tmp_path_factory.mktemp("damaged"), "--no-tie-embeddings")
    for folder in (*(run / "checkpoints").iterdir(), run / BEST):
        raw, tensor = tensors((folder / WEIGHTS).read_bytes())
        tensor("model.embed_tokens.weight")[BAD] = float("nan")
        # Nothing draws it.
        tensor("lm_head.weight")[BAD] = 0.0
        overwrite(folder, bytes(raw))
    return run


@pytest.fixture(scope="module")
def damaged_server(damaged: Path) -> Iterator[Served]:
    with serving(damaged) as server:
        yield server


def told_of(generator: Generator, prompts: list[list[int]]) -> list[list[Told]]:
    """What the sequences behind `prompts` are told, when the first step has them all."""

    async def run() -> list[list[Told]]:
        batch = generator.engine.batch(len(prompts), generator.model.seq_len)
        scheduler = Scheduler(batch, generator.tokenizer)
        queues: list[asyncio.Queue[Told]] = [asyncio.Queue() for _ in prompts]
        settings = _symlm.SampleSettings(
            max_new_tokens=12, temperature=0.8, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=3,
            sample_index=0, stop_ids=[],
        )  # fmt: skip
        scheduler.add(
            [Sequenced(ids, settings, 1, queue.put_nowait) for ids, queue in zip(prompts, queues, strict=True)]
        )
        scheduler.start()
        told: list[list[Told]] = []
        for queue in queues:
            one = [await queue.get()]
            while isinstance(last := one[-1], _symlm.Drawn) and not last.finished:
                one.append(await queue.get())
            told.append(one)
        scheduler.close()
        assert scheduler.running == 0
        assert batch.free == len(prompts)
        return told

    return asyncio.run(run())


def tokens(told: list[Told]) -> list[int | None]:
    assert all(isinstance(one, _symlm.Drawn) for one in told)
    return [one.token for one in told if isinstance(one, _symlm.Drawn)]


def test_only_the_sequence_that_fails_is_told(damaged: Path) -> None:
    generator = Generator.from_pretrained(damaged)
    good = [[5, 9, 4], [30, 31, 32, 33, 34], [7]]
    alone = [tokens(told_of(generator, [ids])[0]) for ids in good]
    told = told_of(generator, [good[0], [5, 9, BAD], good[1], [BAD], good[2]])
    assert [tokens(told[place]) for place in (0, 2, 4)] == alone
    for place in (1, 3):
        assert [type(one) for one in told[place]] == [NanError]


def test_a_request_that_fails_leaves_the_others_their_answers(damaged_server: Served) -> None:
    def ask(ids: list[int]) -> tuple[int, object]:
        answer = damaged_server.post("/v1/completions", {"prompt": ids, "max_tokens": 40, "seed": 1})
        found = answer.json()
        return answer.status_code, found["error"]["message"] if "error" in found else found["choices"][0]["text"]

    good = [[5, 9, number] for number in range(20, 28)]
    alone = [ask(ids) for ids in good]
    assert {status for status, _ in alone} == {200}
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, ids) for ids in [ids for one in good for ids in (one, [*one, BAD])]]
    found = [one.result() for one in asked]
    assert found[::2] == alone
    failed = (500, "the logits are not finite numbers (the weights of the model are damaged)")
    assert found[1::2] == [failed] * len(good)


def test_what_a_failed_text_says(damaged: Path) -> None:
    generator = Generator.from_pretrained(damaged)
    batch = generator.engine.batch(2, generator.model.seq_len)
    settings = _symlm.SampleSettings(
        max_new_tokens=2, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=3,
        sample_index=0, stop_ids=[],
    )  # fmt: skip
    slots = batch.join([BAD], settings), batch.join([5], settings)
    drawn = {one.slot: one for one in batch.step()}
    failed, sound = (drawn[slot] for slot in slots)
    assert (failed.token, failed.finished, failed.why) == (None, True, None)
    assert isinstance(failed.error, NanError)
    assert (sound.finished, sound.error) == (False, None)
    assert "error=NanError" in repr(failed)
