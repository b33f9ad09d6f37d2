"""The numbers of one set of texts: coverage by the reference, entropy, drift per text, token and place."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, final

import torch

from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.diagnose.reference.texts import Scored, repetition

NORMAL = 1.96  # standard errors on each side of a 95 % interval
RARE = 1e-3  # a token of lower π_ref is rare to the reference
DEEP = 10  # and one with this many likelier ones is deep in its list
SHARES = ("repetition", "cut", "rare", "deep", "likeliest")


@final
@dataclass(frozen=True)
class Place:
    """Tokens `first` … `last` of the responses (from 0): mean log π/π_ref and KLs of a token there, nats."""

    first: int
    last: int
    tokens: int
    ratio: Estimate
    kl: float
    back: float


@final
@dataclass(frozen=True)
class Numbers:
    """What is known of one set of texts.

    Per text: `length`, `ratio` Σ log π/π_ref, `kl` Σ_t KL(π‖π_ref)(s_t), `back` Σ_t KL(π_ref‖π)(s_t), `ref_logp`
    Σ log π_ref, `repetition`, `cut` (share without an end). Per token: `token_ratio`, `token_ref_logp`, `entropy`,
    `ref_entropy`, `surprise` −log π_ref − H(π_ref(·|s)), which has mean 0 for texts that π_ref writes; `rare`, `deep`,
    `likeliest`: shares of tokens with π_ref < RARE, with DEEP or more likelier ones, with none.
    """

    texts: int
    prompts: int
    tokens: int
    length: Estimate
    ratio: Estimate
    kl: Estimate
    back: Estimate
    ref_logp: Estimate
    repetition: Estimate
    cut: Estimate
    token_ratio: Estimate
    token_ref_logp: Estimate
    entropy: Estimate
    ref_entropy: Estimate
    surprise: Estimate
    rare: Estimate
    deep: Estimate
    likeliest: Estimate
    places: tuple[Place, ...]

    @property
    def perplexity(self) -> float:
        """exp(−mean log π_ref of a token)."""
        return _exp(-self.token_ref_logp.mean)

    def as_json(self) -> dict[str, Any]:
        """As JSON values: estimates as {mean, low, high, se}."""
        plain = {name: value for name, value in vars(self).items() if name != "places"}
        found = {name: interval(v, share=name in SHARES) if isinstance(v, Estimate) else v for name, v in plain.items()}
        ends = interval(self.token_ref_logp)
        found["perplexity"] = {
            name: None if end is None else known(_exp(-end))
            for name, end in (("mean", ends["mean"]), ("low", ends["high"]), ("high", ends["low"]))
        }
        found["places"] = [
            {**asdict(place), "ratio": interval(place.ratio), "kl": known(place.kl), "back": known(place.back)}
            for place in self.places
        ]
        return found


def interval(value: Estimate, *, share: bool = False) -> dict[str, float | None]:
    """Mean, ends of the 95 % interval and standard error; null where there is no error, or no finite mean.

    The ends of a share's interval are cut to [0, 1].
    """
    if not math.isfinite(value.se):
        return {"mean": known(value.mean), "low": None, "high": None, "se": None}
    reach = NORMAL * value.se
    low, high = value.mean - reach, value.mean + reach
    if share:
        low, high = max(low, 0.0), min(high, 1.0)
    return {"mean": known(value.mean), "low": low, "high": high, "se": value.se}


def known(value: float) -> float | None:
    """A number of JSON, or None for one that is not finite."""
    return value if math.isfinite(value) else None


def _exp(value: float) -> float:
    return math.inf if value > 700 else math.exp(value)


def numbers(of: Scored) -> Numbers:
    """The numbers of a set of texts."""
    laws, valid = of.laws, of.valid
    share = {
        "rare": laws.ref_logp < math.log(RARE), "deep": laws.rank >= DEEP, "likeliest": laws.rank == 0,
    }  # fmt: skip
    again = [repetition(text.tokens) for text in of.texts]
    return Numbers(
        texts=len(of.texts),
        prompts=len(set(of.prompts)),
        tokens=int(valid.sum()),
        length=of.mean(of.length),
        ratio=of.mean(of.ratio),
        kl=of.mean(laws.kl.sum(-1)),
        back=of.mean(laws.back.sum(-1)),
        ref_logp=of.mean(laws.ref_logp.sum(-1)),
        repetition=estimate(again, clusters=of.prompts),
        cut=estimate([float(not text.ended) for text in of.texts], clusters=of.prompts),
        token_ratio=of.token_mean(laws.logp - laws.ref_logp),
        token_ref_logp=of.token_mean(laws.ref_logp),
        entropy=of.token_mean(laws.entropy),
        ref_entropy=of.token_mean(laws.ref_entropy),
        surprise=of.token_mean(-laws.ref_logp - laws.ref_entropy),
        **{name: of.token_mean((where & valid).double()) for name, where in share.items()},
        places=_places(of),
    )


def _places(of: Scored) -> tuple[Place, ...]:
    """Places 0, 1, 2–3, 4–7, 8–15, …, as far as texts go."""
    found: list[Place] = []
    first, width = 0, 1
    ratio = of.laws.logp - of.laws.ref_logp
    while first < of.valid.shape[1]:
        here = slice(first, first + width)
        valid = of.valid[:, here]
        kept = valid.any(-1)
        values = torch.where(valid, ratio[:, here], 0.0).sum(-1)[kept] / valid.sum(-1)[kept]
        owners = [prompt for prompt, has in zip(of.prompts, kept.tolist(), strict=True) if has]
        kl, back = (float(column[:, here][valid].mean()) for column in (of.laws.kl, of.laws.back))
        last = min(first + width, of.valid.shape[1]) - 1
        found.append(Place(first, last, int(valid.sum()), estimate(values.tolist(), clusters=owners), kl, back))
        first, width = first + width, max(1, first + width)
    return tuple(found)
