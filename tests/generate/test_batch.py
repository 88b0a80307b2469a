"""Texts that are written together are those that each gives alone."""

from __future__ import annotations

import random
import threading

import pytest

from exporting import train_tiny
from symlm import _symlm
from symlm.errors import UsageError
from symlm.generate.generator import Generator
from symlm.generate.samples import MOST_TOGETHER


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMLM_CACHE_DIR", str(folder / "cache"))
        return Generator.from_pretrained(train_tiny(folder))


def settings(index: int, tokens: int = 12, temperature: float = 0.9) -> _symlm.SampleSettings:
    return _symlm.SampleSettings(
        max_new_tokens=tokens, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, seed=3,
        sample_index=index, stop_ids=[0],
    )  # fmt: skip


def alone(generator: Generator, ids: list[int], index: int) -> list[int]:
    return list(generator.engine.stream(ids, settings(index)))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_texts_that_come_and_go_are_those_that_each_gives_alone(generator: Generator, threads: int) -> None:
    rng = random.Random(threads)
    vocab, context = generator.model.vocab_size, generator.model.seq_len
    prompts = [[rng.randrange(1, vocab) for _ in range(rng.choice([1, 5, 40]))] for _ in range(10)]
    prompts += [prompts[0][:1] + prompts[2], prompts[2]]
    batch = generator.engine.batch(4, context, prefix_bytes=1 << 20, threads=threads)
    assert (batch.slots, batch.context, batch.threads) == (4, context, threads)
    waiting = list(enumerate(prompts))
    owner: dict[int, int] = {}
    found: dict[int, list[int]] = {}
    while waiting or owner:
        if waiting and batch.free and rng.random() < 0.6:
            index, ids = waiting.pop()
            owner[batch.join(ids, settings(index), 3)] = index
            found[index] = []
        if owner and rng.random() < 0.05:
            slot = rng.choice(list(owner))
            batch.leave(slot)
            index = owner.pop(slot)
            waiting.append((index, prompts[index]))
        for drawn in batch.step():
            index = owner[drawn.slot]
            assert drawn.token is not None
            assert drawn.logprob is not None
            assert drawn.logprob <= 0
            assert [value for _, value in drawn.top] == sorted((value for _, value in drawn.top), reverse=True)
            assert len(drawn.top) == 3
            if drawn.why != "stop":
                found[index].append(drawn.token)
            if drawn.finished:
                assert drawn.why in ("stop", "length", "context")
                batch.leave(drawn.slot)
                del owner[drawn.slot]
    for index, ids in enumerate(prompts):
        # Alone, a text continues from the last half of a full context.
        assert found[index] == alone(generator, ids, index)[: context - len(ids) + 1]
    assert batch.free == 4


def test_logprobs_are_those_of_the_logits(generator: Generator) -> None:
    import numpy as np

    ids = [5, 9, 4]
    batch = generator.engine.batch(1, generator.model.seq_len)
    batch.join(ids, settings(0, temperature=0.0), generator.model.vocab_size)
    (drawn,) = batch.step()
    logits = generator.logits(ids)[-1].astype(np.float64)
    expected = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    found = np.array([value for _, value in sorted(drawn.top)])
    assert np.abs(found - expected).max() < 1e-9
    assert (drawn.token, drawn.logprob) == drawn.top[0]


def test_samples_are_those_that_a_stream_gives(generator: Generator) -> None:
    count = MOST_TOGETHER + 3
    for stop in ("", "e"):
        texts = ["".join(pieces) for pieces in generator.samples("the ", count, stop=stop, max_new_tokens=9, seed=4)]
        expected = [
            generator.generate("the ", stop=stop, max_new_tokens=9, seed=4, sample_index=index)
            for index in range(count)
        ]
        assert texts == expected
        assert len(set(texts)) > 5


def test_wrong_numbers_of_samples_are_refused(generator: Generator) -> None:
    for count in (0, -1, True, 1.5):
        with pytest.raises(UsageError, match="count: expected 1 to"):
            generator.samples("the", count)  # type: ignore[arg-type]


def test_a_batch_says_what_it_cannot_do(generator: Generator) -> None:
    engine, context = generator.engine, generator.model.seq_len
    for slots, positions in ((0, context), (1, 0), (1, context + 1)):
        with pytest.raises(UsageError):
            engine.batch(slots, positions)
    batch = engine.batch(1, 8)
    with pytest.raises(UsageError, match="found a prompt of 9 tokens, expected at most 8"):
        batch.join([1] * 9, settings(0))
    with pytest.raises(UsageError, match="slot 0 has no text"):
        batch.leave(0)
    slot = batch.join([1] * 8, settings(0))
    with pytest.raises(UsageError, match="all 1 slots are taken"):
        batch.join([1], settings(0))
    (drawn,) = batch.step()
    assert drawn.why in ("context", "stop")
    assert batch.step() == []
    batch.leave(slot)
    slot = batch.join([1], settings(0, tokens=0))
    (drawn,) = batch.step()
    assert (drawn.token, drawn.finished, drawn.why) == (None, True, "length")


def test_texts_join_while_another_thread_steps(generator: Generator) -> None:
    batch = generator.engine.batch(8, generator.model.seq_len)
    ended: list[int] = []

    def steps() -> None:
        while len(ended) < 20:
            for drawn in batch.step():
                if drawn.finished:
                    batch.leave(drawn.slot)
                    ended.append(drawn.slot)

    thread = threading.Thread(target=steps)
    thread.start()
    joined = 0
    while joined < 20:
        if batch.free:
            batch.join([joined + 1], settings(joined))
            joined += 1
    thread.join(timeout=120)
    assert len(ended) == 20
