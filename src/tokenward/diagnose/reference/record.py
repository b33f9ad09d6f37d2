"""What was found of a policy, its reference and the data, as numbers, as JSON and as lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, final

from tokenward.diagnose.measures.intervals import Estimate
from tokenward.diagnose.reference.identity import Identity
from tokenward.diagnose.reference.mass import Mass
from tokenward.diagnose.reference.numbers import Numbers, interval, known

Severity = Literal["fine", "note", "warning", "damage"]
Verdict = Literal["unmoved", "expected", "rising", "unclear", "damage"]
OF_REFERENCE, OF_POLICY = "reference samples", "policy samples"


@final
@dataclass(frozen=True)
class Finding:
    """One rule that applied: what was measured, the threshold it passed, what it means, what to do."""

    rule: str
    severity: Severity
    number: float
    threshold: float
    text: str
    remedy: str = ""


@final
@dataclass(frozen=True)
class Measured:
    """`sets` by name: the data's (`chosen`, `rejected`, or `data`), and fresh texts of both models on its prompts.

    `against` {name of data: prompt-paired differences to the reference's own fresh texts}: `ref_logp` and `ratio` per
    text, `token_ref_logp` and `token_ratio` of a text's mean token. `margin`: chosen − rejected `ratio`, by prompt.
    `limit`: the most tokens of a fresh text, where one is known; of the data's texts, `against` and `first` (their
    `ratio` {name of data}) read only as many. `beyond`: share of the data's texts that have more.
    """

    sets: Mapping[str, Numbers]
    against: Mapping[str, Mapping[str, Estimate]]
    identities: tuple[Identity, ...]
    mass: Mass | None
    margin: Estimate | None
    first: Mapping[str, Estimate]
    limit: int | None = None
    beyond: float = 0.0

    @property
    def data(self) -> str | None:
        """The texts that training raises: chosen answers, or demonstrations; None where the data are prompts."""
        return next((name for name in ("chosen", "data") if name in self.sets), None)


@final
@dataclass(frozen=True)
class ReferenceReport:
    """What was measured, what the rules say of it, and of which models and data; docs/reference.md has the schema."""

    measured: Measured
    verdict: Verdict
    findings: tuple[Finding, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """One JSON object."""
        found = self.measured
        return {
            "about": dict(self.about),
            "verdict": self.verdict,
            "findings": [
                {**asdict(one), "number": known(one.number), "threshold": known(one.threshold)} for one in self.findings
            ],
            "sets": {name: numbers.as_json() for name, numbers in found.sets.items()},
            "against": {
                name: {key: interval(value) for key, value in rows.items()} for name, rows in found.against.items()
            },
            "first": {name: interval(value) for name, value in found.first.items()},
            "margin": None if found.margin is None else interval(found.margin),
            "identities": [one.as_json() for one in found.identities],
            "mass": None if found.mass is None else found.mass.as_json(),
        }

    def lines(self) -> list[str]:
        """For the terminal: a table of the sets, the identities, the findings."""
        head = f"{'':<18}{'texts':>6}{'log π/π_ref a text':>22}{'log π_ref a token':>22}{'rare':>7}{'length':>8}"
        found = [head]
        for name, one in self.measured.sets.items():
            found.append(
                f"{name:<18}{one.texts:>6}{_pm(one.ratio):>22}{_pm(one.token_ref_logp):>22}"
                f"{one.rare.mean:>7.1%}{one.length.mean:>8.1f}"
            )
        if "temperature" in self.about:
            found += [f"all texts are drawn and scored at temperature {self.about['temperature']:g}"]
        found += ["± is one standard error; texts of one prompt count as one"]
        found += [one.line() for one in self.measured.identities]
        for rule in self.findings:
            found += [f"[{rule.severity}] {rule.text}", *([f"    {rule.remedy}"] if rule.remedy else [])]
        return [*found, f"verdict: {self.verdict}"]


def _pm(value: Estimate) -> str:
    return f"{value.mean:+.3f}" + (f" ± {value.se:.3f}" if math.isfinite(value.se) else "")
