"""The table and the figures of the study of references, and whose its statements are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenward.studies.study import Cell, Figure, Series, Table

IDENTITY = "Rafailov et al. 2024 (From r to Q*), Eq. 16"
FALLS = "Rafailov et al. 2024, Section 5 and Figure 3, in exact form; the numbers are derived here"
SIGN = "derived here"
LOG2 = "derived here: D_w ≤ 2μ, so KL(D_w‖μ) ≤ log 2"
NAMES = {
    "chosen": "tuned on chosen (D_w)",
    "both": "tuned on both (μ)",
    "rejected": "tuned on rejected (D_l)",
    "none": "not tuned (uniform)",
}
REWARDS = {
    "chosen": "rewards-chosen",
    "both": "rewards-both",
    "rejected": "rewards-rejected",
    "none": "rewards-none",
}  # names of figures
Means = Sequence[tuple[str, float, Mapping[str, float]]]


def table(cells: Means) -> Table:
    """β·E[log π*/π_ref] of each reference and β."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (NAMES[name], beta, *(means[key] for key in ("chosen", "rejected", "both", "reference")))
        for name, beta, means in cells
    )
    return Table(
        "Implicit rewards β·log π*/π_ref at DPO's optimum",
        ("reference", "β", "chosen", "rejected", "mean of both", "own texts = −β·KL(π_ref‖π*)"),
        rows,
        "In reward units; weighted mean of prompts. The last column is negative by theorem; the one before it is "
        "equal to it where the reference is the sampler of both.",
    )


def figures(cells: Means) -> tuple[Figure, ...]:
    """One figure per reference: chosen, rejected and the reference's own texts over β."""
    found = []
    for name, title in NAMES.items():
        mine = [(beta, means) for own, beta, means in cells if own == name]
        betas = [beta for beta, _ in mine]
        series = tuple(
            Series(label, betas, [means[key] for _, means in mine])
            for key, label in (("chosen", "chosen"), ("rejected", "rejected"), ("reference", "texts of π_ref: −β·KL"))
        )
        found.append(
            Figure(
                REWARDS[name], f"Reference {title}", "β", "β·E[log π*/π_ref], reward units", series,
                "The optimum of DPO on unlimited pairs of μ⊗μ. Above 0: more likely than under the reference.",
                x_scale="log",
            )
        )  # fmt: skip
    return tuple(found)
