"""Rules about the policy's own fresh texts beside the reference's: choice, drift away, repetition, length.

Thresholds are conventions, as those of `findings`.
"""

from __future__ import annotations

import math

from tokenward.diagnose.reference.record import OF_POLICY, OF_REFERENCE, Finding, Measured

ENTROPY = 0.5  # share of the reference's entropy, each on its own texts: less is a collapse
ELSEWHERE = 1.0  # nats a token by which π_ref holds the policy's texts less likely than its own: more is drift away
REPEATED = 0.2  # more of the policy's trigrams than of the reference's stood in the text before
LONGER = 1.5  # times the reference's length


def low_entropy(found: Measured) -> Finding | None:
    """The policy's own texts leave it far less choice than the reference's left to the reference."""
    now, before = found.sets[OF_POLICY].entropy.mean, found.sets[OF_REFERENCE].ref_entropy.mean
    if not now < ENTROPY * before:
        return None
    return Finding(
        "entropy-collapse", "damage" if now < ENTROPY**2 * before else "warning", now / before, ENTROPY,
        f"Entropy of a token: {now:.2f} nats on the policy's own texts, {before:.2f} for the reference on its own. The "
        "policy has few texts left.",
        "Raise β (or β_kl), or stop earlier.",
    )  # fmt: skip


def elsewhere(found: Measured) -> Finding | None:
    """The policy writes what its reference would hardly write."""
    theirs, own = (found.sets[name].token_ref_logp.mean for name in (OF_POLICY, OF_REFERENCE))
    if not ELSEWHERE < own - theirs < math.inf:
        return None
    return Finding(
        "mass-elsewhere", "damage", own - theirs, ELSEWHERE,
        f"A token of the policy's texts is {own - theirs:.2f} nats less likely under the reference than one of the "
        "reference's own: mass went to texts that neither the data nor the reference vouch for.",
        "Read some of these samples; raise β, or bring the reference to the data first.",
    )  # fmt: skip


def repeats(found: Measured) -> Finding | None:
    """The policy repeats itself more."""
    now, before = (found.sets[name].repetition.mean for name in (OF_POLICY, OF_REFERENCE))
    if not now - before > REPEATED:
        return None
    return Finding(
        "repetition", "warning", now - before, REPEATED,
        f"{now:.0%} of the policy's trigrams stood in the text before; of the reference's, {before:.0%}.",
        "Read some samples; a reward or a margin that pays for repetition is the usual cause.",
    )  # fmt: skip


def longer(found: Measured) -> Finding | None:
    """The policy's texts are much longer than the reference's, or far more of them are cut."""
    now, before = found.sets[OF_POLICY], found.sets[OF_REFERENCE]
    cut = now.cut.mean - before.cut.mean
    times = now.length.mean / before.length.mean
    passed = [(number, most) for number, most in ((times, LONGER), (cut, REPEATED)) if number > most]
    if not passed:
        return None
    return Finding(
        "length", "warning", *passed[0],
        f"The policy's texts have {now.length.mean:.1f} tokens, the reference's {before.length.mean:.1f}; without an "
        f"end: {now.cut.mean:.0%} and {before.cut.mean:.0%}.",
        "Compare chosen and rejected lengths in the data; a loss per token (or a length term) may be the remedy.",
    )  # fmt: skip
