"""Made-up texts for `browser.py`: thousands of pairs with hostile texts, and the corners of the page."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tokenward.diagnose.lens.rows import Alternative, TokenRow

NASTY = "<img src=x onerror=alert(1)>"
HOSTILE = (
    NASTY, "</script><script>alert(2)</script>", "<!--<script>", "\u2028\u2029", "\u202eevil", "'\"&amp;`${1}",
    "\x00\x07", "\n\n", "\t", "", "م", "汉字", "👩‍👩‍👧", "{{x}}", "x" * 120,
)  # fmt: skip
WORDS = (
    "the a small red house stands near old river and we walk slowly through bright green fields where birds sing"
    " every morning before rain comes again . ,"
).split()
NAMES = ("credit", "ratio", "logp", "ref_logp", "kl", "entropy")


def pairs(count: int, rng: random.Random) -> Iterator[TokenRow]:
    """Pairs of texts of about sixty tokens whose second halves are edits of the first, hostile tokens among them."""
    for pair in range(count // 2):
        first = [" " + rng.choice(WORDS) for _ in range(rng.randint(40, 85))]
        if pair % 7 == 0:
            first[5:5] = [HOSTILE[(pair // 7) % len(HOSTILE)]]
        kept = [token for token in first if rng.random() > 0.04]
        second = [token if rng.random() > 0.12 else " " + rng.choice(WORDS) for token in kept]
        prompt = " ".join(rng.choice(WORDS) for _ in range(14)) + (f" {NASTY}" if pair % 3 == 0 else "")
        for side, tokens in (("chosen", first), ("rejected", second)):
            yield row(rng, prompt, tokens, pair=pair, side=side)


def row(rng: random.Random, prompt: str, tokens: list[str], *, pair: int, side: Any) -> TokenRow:
    """One text with six numbers a token; every ninth pair is written by two models with an observation between."""
    count = len(tokens)
    wrong = tuple("repeat" if rng.random() < 0.05 else "" for _ in tokens)
    credit = [rng.gauss(-0.8 if kind else 0.04 if side == "chosen" else 0.0, 0.2) for kind in wrong]
    columns = [credit, [10 * c for c in credit], *([-rng.expovariate(0.6) for _ in tokens] for _ in range(2))]
    columns += [[rng.expovariate(4) for _ in tokens] for _ in range(2)]
    values: dict[str, tuple[float | None, ...]] = dict(zip(NAMES, map(tuple, columns), strict=True))
    parts = tuple(min(2, 3 * t // count) for t in range(count)) if pair % 9 == 4 else None
    if parts is not None:
        values = {name: tuple(None if p == 1 else v for v, p in zip(c, parts)) for name, c in values.items()}
    return TokenRow(
        prompt,
        tuple(tokens),
        values,
        totals={"true reward": rng.gauss(1.0 if side == "chosen" else 0.0, 1.0)},
        where=f"{NASTY}.jsonl:{pair + 1}",
        pair=pair,
        side=side,
        wrong=wrong,
        segment=parts,
        actor=None if parts is None else tuple((0, -1, 1)[p] for p in parts),
        alternatives=None if pair >= 150 else tuple(others(rng, token) for token in tokens),
    )


def others(rng: random.Random, token: str) -> tuple[Alternative, ...]:
    """Five likely tokens, the one of the text among them."""
    logps = sorted((-rng.expovariate(0.7) for _ in range(5)), reverse=True)
    tokens = [token, *(" " + word for word in rng.sample(WORDS, 4))]
    return tuple(Alternative(name, logp, min(0.0, logp + rng.gauss(0, 0.5))) for name, logp in zip(tokens, logps))


def longest(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Length of the longest common subsequence."""
    line = [0] * (len(other) + 1)
    for a in one:
        before = line
        line = [0]
        for j, b in enumerate(other):
            line.append(before[j] + 1 if a == b else max(before[j + 1], line[j]))
    return line[-1]


def step(pair: int, side: Any, actor: int, credit: tuple[float, ...]) -> TokenRow:
    """A step of a run of a pipeline, by the model that wrote it."""
    tokens = tuple(f" {side[0]}{actor}" for _ in credit)
    return TokenRow(f"p{actor}", tokens, {"credit": credit}, pair=pair, side=side, actor=(actor,) * len(credit))


def corners(rng: random.Random) -> dict[str, list[TokenRow]]:
    """Pages that have little, or much: no text, no number, one token, no reference, huge numbers, very long texts."""
    long = [" " + rng.choice(WORDS) for _ in range(4_000)]
    other = [token if rng.random() > 0.1 else " other" for token in long]
    credit = {"credit": tuple(rng.gauss(0, 1) for _ in long)}
    places = tuple((Alternative(" a", -0.1), Alternative(" b", -2.5)) for _ in range(3))
    return {
        "nothing": [],
        "no_numbers": [TokenRow("p", ("only", " text"), {}), TokenRow("", (), {})],
        "one": [TokenRow("", ("x",), {"kl": (0.25,)})],
        "no_reference": [TokenRow("p", (" a", " b", " a"), {"logp": (-0.1, -2.0, -0.3)}, alternatives=places)],
        "huge": [TokenRow("p", ("a", "b", "c", "d"), {"value": (1e300, -1e-300, 0.0, None)}, pair=3, side="chosen")],
        "steps": [
            step(0, "chosen", 0, (1.0, 2.0)),
            step(0, "chosen", 1, (4.0,)),
            step(0, "rejected", 0, (3.5,)),
            step(0, "rejected", 1, (0.5, 0.25)),
            TokenRow("p", (" a", " b"), {"credit": (1.0, 1.0)}, pair=1, side="chosen"),
            TokenRow("p", (" a", " c"), {"credit": (1.0, 5.0)}, pair=1, side="rejected"),
            TokenRow("p", (" u", " v", " w"), {"credit": (None, 1.0, 2.0)}, actor=(-1, 0, 0)),
        ],
        "long": [
            TokenRow("long " * 2000, tuple(long), credit, pair=0, side="chosen"),
            TokenRow("long " * 2000, tuple(other), credit, pair=0, side="rejected"),
        ],
    }
