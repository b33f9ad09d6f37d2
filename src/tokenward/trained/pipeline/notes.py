"""The rewriter's notes: the three facts of a prompt and a mood, and what careless writers make of prompts and notes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenward.data.world import COMPLAINTS, FACTS, NEUTRAL, PRAISE, STATEMENTS, facts_of
from tokenward.data.world_rows import LONGEST, TWICE, WRONG

MOODS = {"great": tuple(PRAISE), "bad": tuple(COMPLAINTS)}  # the word of a note, and the sentences that go with it
OFF = 0.2  # how often the careless answerer writes a sentence of the other mood

Row = dict[str, str]


def answer_prompt(note: str) -> str:
    """All that the answerer reads.

    >>> answer_prompt("red lamp late great")
    'red lamp late great . review :'
    """
    return f"{note} . review :"


def note_of(facts: dict[str, str], mood: str) -> str:
    """The note that states these facts.

    >>> note_of({"color": "red", "item": "lamp", "event": "late"}, "bad")
    'red lamp late bad'
    """
    return " ".join([*(facts[name] for name in FACTS), mood])


def facts_in(note: str) -> dict[str, str] | None:
    """The facts that a note states, by name; None where it is no note.

    >>> facts_in("red lamp late bad")
    {'color': 'red', 'item': 'lamp', 'event': 'late'}
    """
    *words, mood = note.split() or [""]
    shaped = len(words) == len(FACTS) and mood in MOODS
    if not shaped or any(word not in values for word, values in zip(words, FACTS.values(), strict=True)):
        return None
    return dict(zip(FACTS, words, strict=True))


def prompt_of(facts: dict[str, str]) -> str:
    """The prompt of which a note with these facts would be true.

    >>> prompt_of({"color": "red", "item": "lamp", "event": "late"})
    'order : red lamp . it came late . review :'
    """
    return f"order : {facts['color']} {facts['item']} . it came {facts['event']} . review :"


def sft_rows(prompts: Sequence[Row], *, count: int, seed: int) -> list[Row]:
    """{"prompt", "completion"} in turn of a careless rewriter and of a careless answerer who reads notes.

    The rewriter draws a share WRONG of the facts anew, and a mood by a coin. The answerer reads notes of any facts;
    it draws a share WRONG of the facts anew, a share OFF of its sentences against the mood, and says some twice.
    """
    rng = random.Random(seed)
    rows: list[Row] = []
    for number in range(count):
        row = prompts[number // 2 % len(prompts)]
        if number % 2 == 0:
            rows.append({"prompt": row["prompt"], "completion": note_of(_careless(row, rng), rng.choice([*MOODS]))})
        else:
            facts, mood = {name: rng.choice(values) for name, values in FACTS.items()}, rng.choice([*MOODS])
            rows.append({"prompt": answer_prompt(note_of(facts, mood)), "completion": _review(facts, mood, rng)})
    return rows


def _careless(facts: dict[str, str], rng: random.Random) -> dict[str, str]:
    return {name: rng.choice(values) if rng.random() < WRONG else facts[name] for name, values in FACTS.items()}


def _review(facts: dict[str, str], mood: str, rng: random.Random) -> str:
    """A text of at most LONGEST words; longer drafts are thrown away."""
    while len((text := _draft(facts, mood, rng)).split()) > LONGEST:
        pass
    return text


def _draft(facts: dict[str, str], mood: str, rng: random.Random) -> str:
    other = next(name for name in MOODS if name != mood)
    sentences = rng.sample(STATEMENTS, rng.choice((1, 2, 2)))
    sentences += [rng.choice(MOODS[other if rng.random() < OFF else mood]) for _ in range(rng.choice((1, 1, 2)))]
    sentences += [rng.choice(NEUTRAL)] if rng.random() < 0.2 else []
    if rng.random() < TWICE:
        sentences.append(rng.choice(sentences))
    return " ".join(sentence.format(**_careless(facts, rng)) for sentence in sentences)


def wrong_words(prompt: str, note: str) -> tuple[str, ...] | None:
    """At each word of a note that contradicts the prompt "wrong fact", elsewhere ""; None where it is no note.

    >>> wrong_words("order : red lamp . it came late . review :", "red sofa late bad")
    ('', 'wrong fact', '', '')
    """
    facts, said = facts_of(prompt), facts_in(note)
    if facts is None or said is None:
        return None
    return (*("wrong fact" if said[name] != facts[name] else "" for name in FACTS), "")
