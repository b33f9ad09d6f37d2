"""Where the mass went: what both models give to the chosen and the rejected texts, and what else the policy writes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.diagnose.reference.numbers import interval
from tokenward.diagnose.reference.texts import Ids, Scored


@final
@dataclass(frozen=True)
class Mass:
    """Probability of whole texts, and what the policy's samples are.

    `before`, `after` {name of data: Σ π_ref(y|x) and Σ π(y|x) over its distinct texts, mean over all prompts}: exact,
    no sampling; what is left of 1 is elsewhere. `sampled` {name: share of the policy's samples that are such a text},
    "elsewhere", and "cut" (what these would have become is not known). A text that is both chosen and rejected counts
    as chosen; texts that were cut, and those that the model did not write alone, are no whole texts, and a set that
    has no others is left out.
    `new` {number: Estimate} of the policy's samples elsewhere: `token_ref_logp`, `length`; None where there are none.
    """

    before: dict[str, Estimate]
    after: dict[str, Estimate]
    sampled: dict[str, Estimate]
    new: dict[str, Estimate] | None

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "before": {name: interval(value, share=True) for name, value in self.before.items()},
            "after": {name: interval(value, share=True) for name, value in self.after.items()},
            "sampled": {name: _drawn(value) for name, value in self.sampled.items()},
            "new": None if self.new is None else {name: interval(value) for name, value in self.new.items()},
        }


def _drawn(share: Estimate) -> dict[str, float | None]:
    """A share of samples; where none of them is one, or all are, a one-sided 95 % bound from N prompts, and no error.

    The bound of none is 1 − 0.05^(1/N), about 3/N: a larger share would show itself in 19 of 20 draws.
    """
    found = interval(share, share=True)
    if share.se == 0 and share.mean in (0, 1):
        reach = 1 - 0.05 ** (1 / share.clusters)
        found |= {"low": share.mean * (1 - reach), "high": share.mean + (1 - share.mean) * reach, "se": None}
    return found


def mass(data: dict[str, Scored], policy: Scored) -> Mass | None:
    """The masses of data sets, the first one first, and where fresh texts of the policy fall; None of no whole text."""
    prompts = dict.fromkeys(prompt for of in (*data.values(), policy) for prompt in of.prompts)
    owner: dict[tuple[Ids, Ids], str] = {}
    before: dict[str, Estimate] = {}
    after: dict[str, Estimate] = {}
    for name, of in data.items():
        whole = [row for row, text in enumerate(of.texts) if text.ended and all(text.trainable or ())]
        if not whole:
            continue
        keep: list[int] = []
        for row in whole:
            key = (of.texts[row].prompt, of.texts[row].tokens)
            if key not in owner:
                owner[key] = name
                keep.append(row)
        before[name] = _total(of, of.laws.ref_logp.sum(-1), keep, prompts)
        after[name] = _total(of, of.laws.logp.sum(-1), keep, prompts)
    if not before:
        return None
    places = [owner.get((text.prompt, text.tokens), "elsewhere") if text.ended else "cut" for text in policy.texts]
    sampled = {
        name: estimate([float(place == name) for place in places], clusters=policy.prompts)
        for name in (*before, "elsewhere", "cut")
    }
    return Mass(before, after, sampled, _new(policy, torch.tensor([place == "elsewhere" for place in places])))


def _total(of: Scored, logp: Float[Tensor, " N"], rows: Sequence[int], prompts: Iterable[Hashable]) -> Estimate:
    """Σ exp(logp) over the given rows of each prompt, 0 where it has none; mean over prompts."""
    sums = dict.fromkeys(prompts, 0.0)
    for row in rows:
        sums[of.texts[row].prompt] += float(logp[row].exp())
    return estimate(list(sums.values()))


def _new(policy: Scored, where: Bool[Tensor, " N"]) -> dict[str, Estimate] | None:
    if not bool(where.any()):
        return None
    new = policy.only(where)
    return {"token_ref_logp": new.token_mean(new.laws.ref_logp), "length": new.mean(new.length)}
