"""Rows of the world of chains: prompts, texts of a writer who errs, chains with errors put in; all seeded."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import cycle, islice, product

from tokenward.data.chains import ANSWER, BASE, ENDS, LONGEST, NAMES, SIGNS, Chain, after, chain_of
from tokenward.errors import InputError

LENGTHS = tuple(range(2, LONGEST + 1))  # steps of a prompt, each as often
MOST_PROMPTS = 20_000  # short chains would run out
MISTAKEN, BELIEVED = 12, 0.5  # sums of the 200 that the writer has wrong, and how often it then writes the wrong result
SLIP = 0.01  # how often it slips at any other step

Fact = tuple[int, str, int]


def prompt_rows(*, train: int, heldout: int, seed: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Two lists of rows {"prompt"} that share no prompt."""
    if train + heldout > MOST_PROMPTS:
        raise InputError(f"chains: {train} + {heldout} prompts asked, at most {MOST_PROMPTS}")
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < train + heldout:
        steps = tuple((rng.choice(SIGNS), rng.randrange(BASE)) for _ in range(rng.choice(LENGTHS)))
        found[Chain(rng.randrange(BASE), steps).prompt] = None
    rows = [{"prompt": prompt} for prompt in found]
    return rows[:train], rows[train:]


def sums(*, count: int, seed: int) -> list[dict[str, str]]:
    """{"prompt", "completion"}: single steps of the writer, `3 c + 5 =` and `8`: what a fresh model learns first.

    There is nothing in them to learn but the results, so a model has the sums in seconds.
    """
    rng, beliefs, facts = random.Random(seed), mistaken(seed=seed), _facts()
    rows = []
    for _ in range(count):
        fact = rng.choice(facts)
        value, sign, number = fact
        prompt = f"{value} {rng.choice(NAMES)} {sign} {number} ="
        rows.append({"prompt": prompt, "completion": str(_believed(fact, beliefs, rng))})
    return rows


def mistaken(*, seed: int) -> dict[Fact, int]:
    """The sums that the writer has wrong, and the one wrong result that it believes."""
    rng = random.Random(f"mistaken {seed}")
    return {fact: (after(*fact) + rng.randrange(1, BASE)) % BASE for fact in rng.sample(_facts(), MISTAKEN)}


def _facts() -> list[Fact]:
    return list(product(range(BASE), SIGNS, range(BASE)))


def demonstrations(rows: Sequence[Mapping[str, str]], *, count: int, seed: int) -> list[dict[str, str]]:
    """{"prompt", "completion"} of the writer: it believes some wrong sums half of the time, and slips now and then."""
    rng, beliefs = random.Random(seed), mistaken(seed=seed)
    return [
        {"prompt": row["prompt"], "completion": _written(_known(row["prompt"]), beliefs, rng)}
        for row in islice(cycle(rows), count)
    ]


def written(chain: Chain, results: Sequence[int], *, rng: random.Random) -> str:
    """The text that gives these results, each step going on from the last; its marks are drawn."""
    words, value = [], chain.first
    for name, (sign, number), result in zip(NAMES, chain.steps, results, strict=False):
        (end,) = rng.choices(list(ENDS), weights=list(ENDS.values()))
        words.append(f"{value} {name} {sign} {number} = {result} {end}")
        value = result
    return " ".join([*words, ANSWER, str(value)])


def injected(prompt: str, *, rng: random.Random) -> str:
    """The right chain with one wrong result, the steps behind it carried on from it: its final answer is wrong."""
    chain = _known(prompt)
    place, shift = rng.randrange(len(chain.steps)), rng.randrange(1, BASE)
    return written(chain, _shifted(chain, {place: shift}), rng=rng)


def canceled(prompt: str, *, rng: random.Random) -> str:
    """The right chain with two wrong results that cancel: its final answer is right."""
    chain = _known(prompt)
    if len(chain.steps) < 2:
        raise InputError(f"two errors need two steps, got {prompt!r}")
    one, two = sorted(rng.sample(range(len(chain.steps)), 2))
    shift = rng.randrange(1, BASE)
    return written(chain, _shifted(chain, {one: shift, two: -shift}), rng=rng)


def _shifted(chain: Chain, shifts: Mapping[int, int]) -> list[int]:
    """Results where step k adds shifts[k] to what follows from the result before it."""
    results, value = [], chain.first
    for place, step in enumerate(chain.steps):
        value = (after(value, *step) + shifts.get(place, 0)) % BASE
        results.append(value)
    return results


def _written(chain: Chain, beliefs: Mapping[Fact, int], rng: random.Random) -> str:
    results, value = [], chain.first
    for step in chain.steps:
        value = _believed((value, *step), beliefs, rng)
        results.append(value)
    return written(chain, results, rng=rng)


def _believed(fact: Fact, beliefs: Mapping[Fact, int], rng: random.Random) -> int:
    """What the writer takes the result to be, this time."""
    value, draw = after(*fact), rng.random()
    if fact in beliefs:
        return beliefs[fact] if draw < BELIEVED else value
    return (value + rng.randrange(1, BASE)) % BASE if draw < SLIP else value


def _known(prompt: str) -> Chain:
    chain = chain_of(prompt)
    if chain is None:
        raise InputError(f"{prompt!r} is not a prompt of the world of chains, such as '3 a + 5 b - 9 ='")
    return chain
