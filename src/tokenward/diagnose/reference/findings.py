"""What the numbers mean, in plain words: one rule each, with its threshold, what it says, and what to do.

Thresholds are this project's conventions. They were set before the built-in world was measured, and no theorem gives
them; what does not depend on them are the identities and the signs with their intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from tokenward.diagnose.measures.intervals import Estimate
from tokenward.diagnose.reference.numbers import NORMAL, RARE
from tokenward.diagnose.reference.record import OF_REFERENCE, Finding, Measured, Verdict
from tokenward.diagnose.reference.samples import elsewhere, longer, low_entropy, repeats

RARE_SHARE = 0.05  # of the data's tokens: more of them, and twice the reference's own share, is poor coverage
SURPRISE = 0.1  # nats a token beyond the reference's entropy: more is off-policy data
FALL = 0.5  # nats a token: a fall of this size on chosen answers and on the reference's own texts is a large one

Rule = Callable[[Measured], Finding | None]


def judge(found: Measured) -> tuple[Verdict, tuple[Finding, ...]]:
    """Every rule that applies, the gravest first, and the verdict on the chosen answers' log-probs."""
    findings = [finding for rule in RULES if (finding := rule(found)) is not None]
    return _verdict(findings), gravest_first(findings)


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Damage, warnings, notes, what is fine; equals in their order."""
    order = ("damage", "warning", "note", "fine")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))


def _verdict(findings: Iterable[Finding]) -> Verdict:
    rules = {finding.rule for finding in findings}
    if any(finding.severity == "damage" for finding in findings):
        return "damage"
    known: dict[str, Verdict] = {"unmoved": "unmoved", "chosen-rises": "rising", "expected-fall": "expected"}
    return next((verdict for rule, verdict in known.items() if rule in rules), "unclear")


def ends(value: Estimate) -> tuple[float, float]:
    """The ends of the 95 % interval; NaN from a single prompt, and then no rule that asks for a sign applies."""
    return value.mean - NORMAL * value.se, value.mean + NORMAL * value.se


def broken_identity(found: Measured) -> Finding | None:
    """|z| of either identity beyond chance: the texts are not draws of the laws that were scored."""
    wrong = [one for one in found.identities if one.holds is False]
    if not wrong:
        return None
    worst = max(wrong, key=lambda one: abs(one.z))
    return Finding(
        "broken-identity", "damage", worst.z, worst.most,
        f"The log-ratios of fresh {worst.of} samples miss their KL by {abs(worst.z):.1f} standard errors: these texts "
        "were not drawn from the law that they are scored under, so no number of this report can be trusted.",
        "Look for a sampler with top-k, top-p or another temperature, for another tokenizer, for dropout left on.",
    )  # fmt: skip


def not_finite(found: Measured) -> Finding | None:
    """A log-ratio or a KL is no finite number: a probability of exactly 0, or logits that are no numbers."""
    wrong = {
        name: [word for word, one in parts if not math.isfinite(one.mean)]
        for name, of in found.sets.items()
        for parts in [(("log π/π_ref", of.ratio), ("KL(π‖π_ref)", of.kl), ("KL(π_ref‖π)", of.back))]
    }
    wrong = {name: words for name, words in wrong.items() if words}
    if not wrong:
        return None
    where = "; ".join(f"{', '.join(words)} of {name}" for name, words in wrong.items())
    return Finding(
        "not-finite", "damage", float(len(wrong)), 0.0,
        f"Not a finite number: {where}. One model gives probability 0 to a token that the other may write, or its "
        "logits are no numbers; what is made of these numbers is not known.",
        "Look for a mask on the logits or tokens that only one model knows, and for weights that are not finite.",
    )  # fmt: skip


def unmoved(found: Measured) -> Finding | None:
    """Both laws equal at every state that was seen: nothing is trained yet."""
    if not all(one.kl.mean <= 1e-9 and one.back.mean <= 1e-9 for one in found.sets.values()):
        return None  # a NaN too: it is not known to be 0
    return Finding(
        "unmoved", "fine", 0.0, 1e-9,
        "The policy is still its reference: every log-ratio is 0. What follows is about the data and the reference.",
    )  # fmt: skip


def poor_coverage(found: Measured) -> Finding | None:
    """The reference gives many tokens of the data almost no probability, and more than of its own texts."""
    name = found.data
    if name is None:
        return None
    share, own = found.sets[name].rare.mean, found.sets[OF_REFERENCE].rare.mean
    if share <= max(RARE_SHARE, 2 * own):
        return None
    return Finding(
        "poor-coverage", "warning", share, max(RARE_SHARE, 2 * own),
        f"{share:.1%} of the {name} tokens have π_ref < {RARE:g} ({own:.1%} of the reference's own tokens have): "
        "the reference hardly covers the data, and log-ratios of its tails decide the loss.",
        f"Fine-tune the reference on the {name} answers first, or sample the pairs from the reference.",
    )  # fmt: skip


def long_answers(found: Measured) -> Finding | None:
    """Answers of the data are longer than a fresh text may be."""
    if not found.beyond > 0:
        return None
    return Finding(
        "long-answers", "note", found.beyond, 0.0,
        f"{found.beyond:.1%} of the data's answers have more than the {found.limit} tokens that a fresh text may have. "
        f"Their first {found.limit} are compared with the reference's own texts; sums over whole answers are not "
        "comparable with sums over fresh texts.",
        "To compare more of them, raise --max-new-tokens.",
    )  # fmt: skip


def off_policy(found: Measured) -> Finding | None:
    """The data are more surprising to the reference than what it writes itself."""
    name = found.data
    if name is None:
        return None
    surprise = found.sets[name].surprise
    low, _ = ends(surprise)
    if not low > SURPRISE:
        return None
    return Finding(
        "off-policy", "note", surprise.mean, SURPRISE,
        f"A {name} token is {surprise.mean:.2f} nats more surprising to the reference than its own entropy there: the "
        f"{name} answers are not the reference's. That they must fall holds only for the law of the reference itself.",
        f"To keep the guarantee and the coverage, take as reference a model fine-tuned on the {name} answers.",
    )  # fmt: skip


def on_policy(found: Measured) -> Finding | None:
    """No difference is seen between the data and the reference's own texts: the fall of their log-probs is forced."""
    name = found.data
    if name is None:
        return None
    surprise, apart = found.sets[name].surprise, found.against[name]["ref_logp"]
    if not (_holds_zero(surprise) and _holds_zero(apart)):
        return None
    return Finding(
        "on-policy", "note", surprise.mean, 0.0,
        f"The {name} answers cannot be told from the reference's own texts (by their surprise and by log π_ref of "
        f"the {_part(found)}answers). As far as they are its texts, their mean log-prob must fall in training: by "
        "KL(π_ref‖π), whatever the loss.",
        "Do not read that fall as a fault: judge a run by its margin, and by its own samples.",
    )  # fmt: skip


def expected_fall(found: Measured) -> Finding | None:
    """Chosen answers fall, in the part that is compared too, and no more than the reference's own texts do."""
    name = found.data
    if name is None or min(_token_falls(found, name)) > FALL:
        return None
    high = max(ends(found.sets[name].ratio)[1], ends(found.first[name])[1])
    if not high < 0 or _below_reference(found, name):
        return None
    gap = found.against[name]["token_ratio"]
    return Finding(
        "expected-fall", "fine", high, 0.0,
        f"The {_part(found)}{name} answers fell by {-found.first[name].mean:.2f} nats a text; texts of the reference "
        f"must fall by KL(π_ref‖π) = {found.sets[OF_REFERENCE].back.mean:.2f}. Token for token the {name} fell no more "
        f"than they, as far as {gap.clusters} prompts tell ({gap}). That is what leaving costs.",
    )  # fmt: skip


def fell_more(found: Measured) -> Finding | None:
    """Chosen answers fall more than the reference's own texts: more than leaving the reference forces."""
    name = found.data
    if name is None or not ends(found.sets[name].ratio)[1] < 0 or not _below_reference(found, name):
        return None
    gap = found.against[name]["token_ratio"]
    large = found.sets[name].token_ratio.mean < -FALL
    return Finding(
        "fell-more", "damage" if large else "warning", gap.mean, 0.0,
        f"A token of the {_part(found)}{name} answers fell by {-gap.mean:.2f} nats more than one of the reference's "
        "own texts: a policy's leaving its reference does not explain it; the loss pushes these answers down.",
        "Raise β, lower the learning rate or stop earlier; or add an SFT term on the chosen answers.",
    )  # fmt: skip


def rises(found: Measured) -> Finding | None:
    """Chosen answers rise: the policy is nearer to their law than its reference was."""
    name = found.data
    if name is None or not (low := ends(found.sets[name].ratio)[0]) > 0:
        return None
    ratio = found.sets[name].ratio.mean
    return Finding(
        "chosen-rises", "fine", low, 0.0,
        f"The {name} answers rose by {ratio:.2f} nats a text: KL(D‖π_ref) − KL(D‖π) = {ratio:.2f} for their law D, so "
        "the policy came nearer to it; possible only because its reference was not that law already.",
    )  # fmt: skip


def collapse(found: Measured) -> Finding | None:
    """The margin grows while chosen answers and the reference's own texts both fall a lot."""
    name = found.data
    if name is None or found.margin is None or not ends(found.margin)[0] > 0:
        return None
    falls = _token_falls(found, name)
    if not min(falls) > FALL:
        return None
    return Finding(
        "margin-by-collapse", "damage", min(falls), FALL,
        f"The margin grew by {found.margin.mean:.2f} nats, but a {name} token lost {falls[0]:.2f} nats and one of the "
        f"reference's texts {falls[1]:.2f}: the margin is made by making everything known less likely.",
        "Stop earlier or raise β; look at what the policy writes instead (the samples elsewhere).",
    )  # fmt: skip


def large_fall(found: Measured) -> Finding | None:
    """Chosen answers and the reference's own texts both fall a lot, and no margin is known to grow."""
    name = found.data
    if name is None or not min(falls := _token_falls(found, name)) > FALL or collapse(found) is not None:
        return None
    return Finding(
        "large-fall", "warning", min(falls), FALL,
        f"A {name} token lost {falls[0]:.2f} nats and one of the reference's texts {falls[1]:.2f}, and no growth of a "
        "margin is established: everything known became less likely, and what for is not seen here.",
        "Stop earlier or raise β; read what the policy writes instead; give pairs, and more --prompts, for a margin.",
    )  # fmt: skip


def wrong_way(found: Measured) -> Finding | None:
    """Rejected answers gained on chosen ones."""
    if found.margin is None or not (high := ends(found.margin)[1]) < 0:
        return None
    return Finding(
        "wrong-way", "damage", high, 0.0,
        f"Rejected answers gained {-found.margin.mean:.2f} nats on chosen ones against the reference.",
        "See that chosen and rejected are not swapped, and that policy and reference are not.",
    )  # fmt: skip


def _part(found: Measured) -> str:
    """Which part of the data's answers was compared, in words: none where it is all of them."""
    return f"first {found.limit} tokens of the " if found.beyond > 0 else ""


def _token_falls(found: Measured, name: str) -> tuple[float, float]:
    """Nats that a token of the data and one of the reference's own texts lost."""
    return -found.sets[name].token_ratio.mean, -found.sets[OF_REFERENCE].token_ratio.mean


def _below_reference(found: Measured, name: str) -> bool:
    """Whether the data's mean token fell more than the reference's own texts', beyond the 95 % interval."""
    return ends(found.against[name]["token_ratio"])[1] < 0


def _holds_zero(value: Estimate) -> bool:
    low, high = ends(value)
    return low <= 0 <= high


RULES: tuple[Rule, ...] = (
    not_finite, broken_identity, unmoved, poor_coverage, long_answers, off_policy, on_policy, expected_fall, fell_more,
    rises, collapse, large_fall, wrong_way, low_entropy, elsewhere, repeats, longer,
)  # fmt: skip
