"""Does a model learn to answer? Makes 10,000 conversations (sums below 20 and look-ups), fine-tunes a model that symlm
trained on other text for three epochs, and counts right answers to questions that no conversation asks in these words.

    python bench/chat_answers.py FOLDER [--base MODEL] [--conversations N] [--steps N]

Prints the share of right answers before and after. Exit code 1 unless it is below 20 % before and at least 90 % after.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import symlm
from symlm.generate.chat import Chat

SUMS = ("What is {}+{}?", "How much is {} plus {}?", "Add {} and {}.", "{} + {} =", "Tell me {} plus {}.")
LOOKUPS = ("What colour is the {}?", "Tell me the colour of the {}.", "The {}: which colour?", "Colour of {}?")
COLOURS = ("red", "blue", "green", "black", "white", "grey", "pink", "brown", "gold", "teal")
HELD_OUT, EPOCHS = 0.15, 3
THINGS = (
    "house", "door", "tree", "boat", "shoe", "lamp", "bird", "stone", "river", "book", "chair", "cloud", "fish",
    "horse", "ring", "wall", "cup", "coat", "bell", "road",
)  # fmt: skip
RULES = ("You answer questions.", *(None,) * 7)
TURNS = (1, 1, 1, 1, 2)

Question = tuple[str, str]


def questions() -> list[Question]:
    """Every question with its answer."""
    made = random.Random(1)
    colours = {thing: made.choice(COLOURS) for thing in THINGS}
    asked = [(form.format(a, b), f"It is {a + b}.") for form in SUMS for a in range(10) for b in range(10)]
    return asked + [(form.format(thing), f"It is {colours[thing]}.") for form in LOOKUPS for thing in THINGS]


def conversation(made: random.Random, known: list[Question]) -> dict[str, object]:
    """One or two questions, perhaps with a rule before them."""
    rule = made.choice(RULES)
    messages = [] if rule is None else [{"role": "system", "content": rule}]
    for question, answer in made.sample(known, made.choice(TURNS)):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def share(model: Path, asked: list[Question], template: str | None = None) -> float:
    """The share of questions that a model answers right, each in a new conversation."""
    right = 0
    with Chat.from_pretrained(model, template=template) as chat:
        for question, answer in asked:
            chat.reset()
            right += chat.ask(question, temperature=0, max_new_tokens=16).strip() == answer
    return right / len(asked)


def main() -> int:
    """Run all of it; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=300, help="updates of the model before it is fine-tuned")
    parser.add_argument("--base", type=Path, help="a model to fine-tune; without it one is trained")
    parser.add_argument("--asked", type=int, default=300, help="questions of the count")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    made = random.Random(0)
    known = questions()
    made.shuffle(known)
    held, known = known[: int(len(known) * HELD_OUT)], known[int(len(known) * HELD_OUT) :]
    data = folder / "conversations.jsonl"
    lines = (json.dumps(conversation(made, known)) for _ in range(arguments.conversations))
    data.write_text("\n".join(lines) + "\n")
    asked = held[: arguments.asked]

    base = arguments.base
    if base is None:
        config = symlm.TrainConfig(
            preset="tiny", max_steps=arguments.steps, out_dir=str(folder / "base"), sample_every=0
        )
        base = symlm.Trainer(config).fit().path
    before = share(base, asked, "chatml")
    tuned = symlm.finetune_config(
        base,
        epochs=EPOCHS,
        batch_size=4,
        learning_rate=3e-3,
        out_dir=str(folder / "tuned"),
        sample_every=0,
        eval_interval=500,
    )
    after = share(symlm.Trainer(tuned, data=[data]).fit().path, asked)
    print(f"{len(asked)} questions in words that were held out: {before:.1%} right before, {after:.1%} after")
    return 0 if before < 0.2 and after >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
