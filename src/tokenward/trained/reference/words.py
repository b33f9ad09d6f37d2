"""The results of the study: claims, a table, one figure per reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tokenward.studies.study import Cell, Claim, Figure, Series, Study, Table

Row = Mapping[str, Any]
NAMES = {
    "chosen": "tuned on chosen",
    "both": "sampler of both",
    "rejected": "tuned on rejected",
    "none": "never saw a review",
}
CURVES = {
    "chosen": "curves-chosen",
    "both": "curves-both",
    "rejected": "curves-rejected",
    "none": "curves-none",
}  # names of figures
EQUATION = "Rafailov et al. 2024 (From r to Q*), Eq. 16; the test by z-score is derived here"
FIGURE_3 = "Rafailov et al. 2024, Section 5 and Figure 3; measured here"
DERIVED = "derived here; measured here"
MOST = 4.0  # standard errors
WINDOW = 10  # updates over which a curve of pairs is averaged


def told(results: Row) -> Study:
    """Everything that was found, with claims that fail where the numbers do not bear them out."""
    runs, plan = _numbers(results["runs"]), results["settings"]
    return Study(
        name="reference-runs",
        title="When do chosen log-probs fall in a trained model?",
        question=(
            "DPO on the same pairs from four references: the SFT policy that wrote both answers, the same tuned on "
            "the chosen or on the rejected ones, and a model that never saw a review. Do chosen log-probs fall, or "
            "rise, and does E_ref[log π/π_ref] = −KL(π_ref‖π) hold within its error bars in both cases?"
        ),
        world=(
            f"the built-in text world, a Llama of 0.44 million weights, seed {plan['seed']}, scale {plan['scale']:g}; "
            f"{results['pairs']['pairs']} pairs read once, {results['pairs']['heldout-pairs']} held-out pairs and "
            f"{plan['texts']} fresh texts of each model on each of {plan['held_prompts']} held-out prompts"
        ),
        claims=(*_identity_claims(runs), *_sign_claims(runs)),
        figures=tuple(_figure(runs, name) for name in NAMES),
        tables=(_table(runs),),
        notes=_notes(results),
    )


def _numbers(value: Any) -> Any:
    """The records of runs with NaN where a report knows no number: no claim holds of it."""
    if isinstance(value, Mapping):
        return {key: _numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return math.nan if value is None else value


def _most(values: Iterable[float]) -> float:
    """The largest; NaN where one is NaN, or none is there."""
    return max(values, key=lambda x: math.inf if math.isnan(x) else x, default=math.nan)


def _identity_claims(runs: Row) -> tuple[Claim, ...]:
    scores = {name: abs(_of_reference(row)["z"]) for name, row in runs.items()}
    most = _most(scores.values())
    worst = next(name for name, z in scores.items() if z is most)
    policy = [abs(row["report"]["identities"][1]["z"]) for row in runs.values()]
    looks = [abs(z) for row in runs.values() for z in row["curve"]["reference/z"]]
    fell, rose = _extremes(runs)
    check = "fresh samples on held-out prompts; measured: |z| of log-ratios against exact state KLs"
    return (
        Claim(
            "Where chosen answers fall most, texts of the reference fall by the KL, within error.", EQUATION,
            f"run {fell}: {_three(runs[fell])} nats; {check}",
            scores[fell], at_most=MOST,
        ),
        Claim(
            "Where they rise most, texts of the reference fall by the KL all the same.", EQUATION,
            f"run {rose}: {_three(runs[rose])} nats; {check}",
            scores[rose], at_most=MOST,
        ),
        Claim(
            "In every run.", EQUATION, f"largest of {len(runs)} runs ({worst}), {check}", most, at_most=MOST,
        ),
        Claim(
            "And the other way round: E_π[log π/π_ref] = KL(π‖π_ref).", EQUATION,
            f"largest of {len(runs)} runs, {check}", _most(policy), at_most=MOST,
        ),
        Claim(
            "The probe of the trainer sees it while a run goes on.", EQUATION,
            f"largest |reference/z| of {len(looks)} looks of all runs (looks of one run share their texts)",
            _most(looks), at_most=5.0,
        ),
    )  # fmt: skip


def _sign_claims(runs: Row) -> tuple[Claim, ...]:
    by = {name: [row for row in runs.values() if row["reference"] == name] for name in NAMES}
    fell, rose = _extremes(runs)
    margins = [row["report"]["margin"]["low"] for row in runs.values()]
    both = [_mean_of_both(row) for row in by["both"]]
    check = "log π/π_ref of held-out chosen answers, nats a text"
    return (
        Claim(
            "There are runs in which chosen log-probs fall …", FIGURE_3,
            f"{check}; measured: upper end of the 95 % interval of {fell}", _chosen(runs[fell])["high"], at_most=0.0,
        ),
        Claim(
            "… and runs in which they rise.", FIGURE_3,
            f"{check}; measured: lower end of the 95 % interval of {rose}", _chosen(runs[rose])["low"], at_least=0.0,
        ),
        Claim(
            "The margin grows in all of them.", FIGURE_3,
            f"least lower end of the 95 % interval of {len(runs)} held-out margins, nats", -_most(-x for x in margins),
            at_least=0.0,
        ),
        Claim(
            "With the sampler of both answers as reference, their mean is what the reference's own texts have.",
            "derived here: chosen and rejected together are draws of it",
            "(chosen + rejected)/2 on held-out pairs minus the mean of fresh texts of the reference, in its own "
            "standard errors; largest of the β", _most(both), at_most=MOST,
        ),
        Claim(
            "And chosen answers rise by no more than log 2 nats a text.",
            "derived here: E_w[log π/π_ref] ≤ KL(D_w‖π_ref) ≤ log 2", f"{check}; measured: largest lower end of the β",
            _most(_chosen(row)["low"] for row in by["both"]), at_most=math.log(2),
        ),
        Claim(
            "With a reference tuned on the chosen answers they fall at every β.", FIGURE_3,
            f"{check}; measured: largest upper end of the 95 % interval over β",
            _most(_chosen(row)["high"] for row in by["chosen"]), at_most=0.0,
        ),
        Claim(
            "With a reference tuned on the rejected answers they rise, where β is large.", DERIVED,
            f"{check}; measured: lower end of the 95 % interval at β = {by['rejected'][-1]['beta']:g}",
            _chosen(by["rejected"][-1])["low"], at_least=0.0,
        ),
        Claim(
            "With a reference that never saw a review no sign is forced, and here they fall at every β.",
            "measured here; in Figure 3 of Rafailov et al. 2024 the runs without SFT stay above zero",
            f"{check}; measured: largest upper end of the 95 % interval over β",
            _most(_chosen(row)["high"] for row in by["none"]), at_most=0.0,
        ),
    )  # fmt: skip


def _extremes(runs: Row) -> tuple[str, str]:
    """The runs in which chosen answers fall and rise most."""
    order = sorted(runs, key=lambda name: float(_chosen(runs[name])["mean"]))
    return order[0], order[-1]


def _chosen(row: Row) -> Row:
    found: Row = row["report"]["sets"]["chosen"]["ratio"]
    return found


def _of_reference(row: Row) -> Row:
    found: Row = row["report"]["identities"][0]
    return found


def _three(row: Row) -> str:
    own = _of_reference(row)
    return f"chosen {_ends(_chosen(row))}, texts of the reference {_ends(own['ratio'])}, −KL {_ends(own['kl'])}"


def _mean_of_both(row: Row) -> float:
    """|(chosen + rejected)/2 − fresh texts of the reference| in standard errors, by prompt."""
    sides = [row["report"]["against"][name]["ratio"] for name in ("chosen", "rejected")]
    error = sum(side["se"] for side in sides) / 2  # both subtract the same texts: an upper bound of the error
    return float(abs(sum(side["mean"] for side in sides) / 2) / _most((error, 1e-12)))


def _table(runs: Row) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in runs.values():
        sets, own = row["report"]["sets"], _of_reference(row)
        rows.append(
            (
                NAMES[row["reference"]], row["beta"], *(_ends(sets[name]["ratio"]) for name in ("chosen", "rejected")),
                _ends(own["ratio"]), _ends(own["kl"]), None if math.isnan(own["z"]) else f"{own['z']:+.2f}",
                f"{sets['policy samples']['ratio']['mean']:.2f}", row["report"]["verdict"],
            )
        )  # fmt: skip
    return Table(
        "log π/π_ref after training, nats a text",
        ("reference", "β", "chosen", "rejected", "its own texts", "−KL(π_ref‖π)", "z", "policy's texts", "verdict"),
        tuple(rows),
        "Mean (95 % interval) on held-out prompts. `its own texts`: fresh samples of the reference, which the theorem "
        "ties to the column after it. The verdict is `tokenward diagnose`'s.",
    )


def _figure(runs: Row, name: str) -> Figure:
    mine = [row for row in runs.values() if row["reference"] == name]
    row = mine[-1 if name == "rejected" else len(mine) // 2]  # where chosen answers rise
    curve = row["curve"]
    places, middle = curve["update"], curve["reference/log_ratio"]
    reach = [1.96 * se for se in curve["reference/log_ratio_se"]]
    band = [[m + sign * r for m, r in zip(middle, reach, strict=True)] for sign in (-1, 1)]
    pairs = [Series(side, *_smooth(curve[side])) for side in ("chosen", "rejected")]
    return Figure(
        CURVES[name], f"Reference: {NAMES[name]}, β = {row['beta']:g}", "updates", "log π/π_ref, nats a text",
        (
            *pairs, Series("texts of the reference", places, middle, "points", *band),
            Series("−KL(π_ref‖π)", places, [-x for x in curve["reference/kl"]]),
        ),
        f"Chosen and rejected: pairs that the run has not yet read, mean of {WINDOW} updates. Points: the log-ratio of "
        "the probe's texts with 95 % intervals; the line that they must meet is from exact KLs of the states.",
    )  # fmt: skip


def _smooth(values: list[float]) -> tuple[list[float], list[float]]:
    """(middle of each window of updates, from 1; mean in it)."""
    parts = [values[i : i + WINDOW] for i in range(0, len(values), WINDOW)]
    return [i * WINDOW + (len(part) + 1) / 2 for i, part in enumerate(parts)], [sum(p) / len(p) for p in parts]


def _notes(results: Row) -> tuple[str, ...]:
    plan = results["settings"]
    return (
        "Pairs are two texts of the SFT policy, labeled by draws on the true reward. So `sampler of both` is exactly "
        "the law of the answers, `tuned on chosen` is near to the law of the chosen ones, `tuned on rejected` far from "
        "it, and `never saw a review` is the model after the first stage of its training, which only taught it to copy "
        "words. Three of these are those of the paper's Figure 3 and came first; `tuned on rejected` was added when "
        "none of their runs had a clear rise, because the theorem allows one there.",
        "One set of settings for all runs, not tuned for these claims; "
        f"{plan['offline']['updates']} updates at scale 1. Intervals are of texts and prompts, not of seeds. "
        "Runs of one reference share its fresh texts, so their z-scores are not independent. "
        f"All stages together {sum(results['stages'].values()):.0f} s on one thread of a shared machine.",
    )


def _ends(found: Row) -> str:
    """`-1.20 (-1.31 to -1.09)`; a dash for an interval that is not known."""
    reach = "–" if math.isnan(found["low"]) else f"{found['low']:.2f} to {found['high']:.2f}"
    return f"{found['mean']:.2f} ({reach})"
