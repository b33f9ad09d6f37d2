"""Measure a policy and its reference on data and on fresh texts of both, all on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tokenward.data.tokenize import Demonstration, Example, Labeled, Pair, Prompt, Response, StepPair
from tokenward.data.tokenize import Scored as Rated
from tokenward.diagnose.measures.intervals import Estimate
from tokenward.diagnose.reference.findings import judge
from tokenward.diagnose.reference.identity import identity
from tokenward.diagnose.reference.mass import mass
from tokenward.diagnose.reference.numbers import numbers
from tokenward.diagnose.reference.record import OF_POLICY, OF_REFERENCE, Measured, ReferenceReport
from tokenward.diagnose.reference.texts import Scored, Text, by_prompt, scored
from tokenward.errors import InputError
from tokenward.models.forward import Scorer
from tokenward.models.two_laws import same_vocabulary
from tokenward.rollout.sampler import GenerateSampler, Law

_KINDS: dict[type, str] = {Pair: "pairs", Labeled: "labels", Demonstration: "demonstrations", Rated: "scores"}
_APART = 500_009  # between the seeds of the two samplers: equal models would draw equal texts


@final
@dataclass(frozen=True)
class Sampling:
    """Fresh texts: `samples` of each model on each of at most `prompts` prompts, of at most `max_new_tokens`."""

    prompts: int = 128
    samples: int = 2
    max_new_tokens: int = 64
    temperature: float = 1.0
    seed: int = 0
    rows: int = 64

    def __post_init__(self) -> None:
        for name, least in (("prompts", 2), ("samples", 1), ("max_new_tokens", 1), ("rows", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"temperature must be above 0 and finite, as texts are scored too; got {self.temperature}")


def reference_report(
    policy: Scorer,
    reference: Scorer,
    examples: Sequence[Example],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    sampling: Sampling | None = None,
    micro_tokens: int = 16384,
    about: Mapping[str, Any] | None = None,
) -> ReferenceReport:
    """Everything of docs/reference.md for two models and rows of a file: pairs, demonstrations, or prompts alone."""
    same_vocabulary(policy, reference)
    asked = sampling or Sampling()
    chosen = _spread(_distinct(examples), asked.prompts)
    keys = {prompt.tokens for prompt in chosen}
    texts = _data([example for example in examples if _prompt(example).tokens in keys])
    for number, (name, model) in enumerate(((OF_REFERENCE, reference), (OF_POLICY, policy))):
        texts[name] = fresh(model, chosen, end_ids=end_ids, pad_id=pad_id, asked=asked, seed=number * _APART)
    sets = {
        name: scored(
            rows, policy=policy, reference=reference, pad_id=pad_id, temperature=asked.temperature,
            micro_tokens=micro_tokens,
        )
        for name, rows in texts.items()
        if rows
    }  # fmt: skip
    found = measured(sets, limit=asked.max_new_tokens)
    verdict, findings = judge(found)
    facts = {
        "kind": _KINDS.get(type(examples[0]), "prompts"),
        "prompts": len(chosen), "samples": asked.samples, "max_new_tokens": asked.max_new_tokens,
        "temperature": asked.temperature, "seed": asked.seed,
    }  # fmt: skip
    return ReferenceReport(found, verdict, findings, {**(about or {}), **facts})


def measured(sets: Mapping[str, Scored], *, limit: int | None = None) -> Measured:
    """The numbers of scored texts; fresh texts of both models, of at most `limit` tokens, are among them."""
    data = {name: of for name, of in sets.items() if name not in (OF_REFERENCE, OF_POLICY)}
    first = data if limit is None else {name: of.first(limit) for name, of in data.items()}
    longer = [limit is not None and length > limit for of in data.values() for length in of.length.tolist()]
    ours, own = sets[OF_POLICY], sets[OF_REFERENCE]
    return Measured(
        sets={name: numbers(of) for name, of in sets.items()},
        against={name: _against(of, own) for name, of in first.items()},
        identities=(identity(own, law="reference"), identity(ours, law="policy")),
        mass=mass(data, ours),
        margin=_margin(data),
        first={name: of.mean(of.ratio) for name, of in first.items()},
        limit=limit,
        beyond=sum(longer) / len(longer) if longer else 0.0,
    )


def _margin(data: Mapping[str, Scored]) -> Estimate | None:
    """Chosen − rejected Σ log π/π_ref by prompt; None where no prompt has both."""
    if not {"chosen", "rejected"} <= data.keys():
        return None
    one, two = data["chosen"], data["rejected"]
    return by_prompt(one, one.ratio, two, two.ratio) if set(one.prompts) & set(two.prompts) else None


def _against(of: Scored, own: Scored) -> dict[str, Estimate]:
    """Data − the reference's own texts, prompt by prompt: per text, and per token as the mean of a text's tokens."""
    found = {}
    for name in ("ref_logp", "ratio"):
        mine, theirs = ((one.laws.ref_logp.sum(-1) if name == "ref_logp" else one.ratio) for one in (of, own))
        found[name] = by_prompt(of, mine, own, theirs)
        found[f"token_{name}"] = by_prompt(of, mine / of.length, own, theirs / own.length)
    return found


def fresh(
    model: Scorer,
    prompts: Sequence[Prompt],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    asked: Sampling,
    seed: int = 0,
) -> list[Text]:
    """Texts of a model under exactly the law that it is scored under: no top-k, no top-p."""
    sampler = GenerateSampler(
        model, end_ids=end_ids, pad_id=pad_id, max_new_tokens=asked.max_new_tokens,
        law=Law(temperature=asked.temperature), rows=asked.rows, seed=asked.seed + seed,
    )  # fmt: skip
    groups = sampler.generate(prompts, group=asked.samples, version=0)
    return [Text(r.prompt_tokens, r.response_tokens, r.finish == "stop") for group in groups for r in group]


def _data(examples: Sequence[Example]) -> dict[str, list[Text]]:
    """The answers of the rows by the name of their set; none where the rows are prompts."""
    found: dict[str, list[Text]] = {}
    for example in examples:
        if isinstance(example, StepPair):
            raise InputError(
                "the rows hold steps of two models; a report is about one policy and its reference: give pairs of one"
            )
        if isinstance(example, Pair):
            found.setdefault("chosen", []).append(_text(example.prompt, example.chosen))
            found.setdefault("rejected", []).append(_text(example.prompt, example.rejected))
        elif isinstance(example, Labeled):
            name = "chosen" if example.label else "rejected"
            found.setdefault(name, []).append(_text(example.prompt, example.response))
        elif isinstance(example, Demonstration | Rated):
            found.setdefault("data", []).append(_text(example.prompt, example.response))
    return found


def _text(prompt: Prompt, response: Response) -> Text:
    return Text(tuple(prompt.tokens), tuple(response.tokens), response.finish == "stop", response.trainable)


def _prompt(example: Example) -> Prompt:
    return example if isinstance(example, Prompt) else example.prompt


def _distinct(examples: Sequence[Example]) -> list[Prompt]:
    """The prompts of the rows, each once, in file order."""
    return list({prompt.tokens: prompt for prompt in reversed([_prompt(e) for e in examples])}.values())[::-1]


def _spread(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """At most so many of them, evenly spread over the file."""
    if not prompts:
        raise InputError("the data have no usable row")
    number = min(most, len(prompts))
    return [prompts[i * len(prompts) // number] for i in range(number)]
