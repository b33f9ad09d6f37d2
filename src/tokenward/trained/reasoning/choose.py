"""Best of n texts by several scores, by vote, and by an oracle: accuracy with intervals over prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from tokenward.trained.agents.measure import bootstrap, by_prompt

Numbers = dict[str, Any]


def chosen(
    *,
    prompt: Sequence[int],
    right: Sequence[float],
    answer: Sequence[Sequence[str]],
    scores: Mapping[str, Sequence[float]],
    most: int,
) -> Numbers:
    """{way: {n: accuracy}} for n = 1, 2, 4 … `most`; each prompt has `most` texts, which stand together.

    The texts of a prompt are cut into blocks of n, the best of each block is taken, and the blocks are averaged: every
    n uses the same texts. "vote": the commonest answer, the first of equally common ones · "oracle": right if any is.
    `gain_{way}`: accuracy at `most` less that of one text; `lead_{way}`: of "implicit" at `most` over another way.
    """
    sizes = [2**k for k in range(most.bit_length())]
    votes = [tuple(words) for words in answer]
    found: Numbers = {}
    means = {}
    for name in (*scores, "vote", "oracle"):
        found[name] = {}
        for n in sizes:
            owners, values = [], []
            for start in range(0, len(prompt), n):
                block = range(start, start + n)
                owners.append(prompt[start])
                values.append(_block(name, block, right, votes, scores))
            means[name, n] = by_prompt(owners, values)
            found[name][str(n)] = bootstrap(means[name, n])
        found[f"gain_{name}"] = bootstrap(means[name, most] - means[name, 1])
    for name in (*scores, "vote"):
        if name != "implicit":
            found[f"lead_{name}"] = bootstrap(means["implicit", most] - means[name, most])
    return found


def _block(
    name: str,
    block: range,
    right: Sequence[float],
    votes: Sequence[Hashable],
    scores: Mapping[str, Sequence[float]],
) -> float:
    """Whether what is chosen of a block is right."""
    if name == "oracle":
        return max(right[i] for i in block)
    if name == "vote":
        (winner, _), *_ = Counter(votes[i] for i in block).most_common()
        return next(right[i] for i in block if votes[i] == winner)
    return right[max(block, key=scores[name].__getitem__)]
