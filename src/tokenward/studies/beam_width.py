"""Is a wider beam better? Exact policies and imperfect ones, on random trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.theory.beams import beam_leaf
from tokenward.lab.worlds.tree import Tree, grow
from tokenward.lab.worlds.world import World
from tokenward.studies.study import Cell, Claim, Figure, Series, Study, Table

PAPER = "beam search as a search for r + β log π_ref: Rafailov et al. 2024, §4.3; measured here"
TREES, SEED, NORMAL = 2000, 0, 1.96
WIDTHS = (1, 2, 3, 5, 7, 10, 15, 20)
NOISES = (0.0, 0.5, 1.0, 2.0)
TAUS = (0.5, 1.0)


def beam_width(world: World | None) -> Study:
    """What beams of 1 to 20 find under π ∝ π_ref·exp((r + noise)/β), in r and in r + β log π_ref."""
    taus: tuple[float, ...] = TAUS
    shapes = {"equal lengths": grow(vocab=4, horizon=4, eos=None), "an end token": grow(vocab=4, horizon=4, eos=0)}
    if world is not None:
        shapes, taus = {"the world's tree": world.tree}, (world.tau,)
    curves = [_Curve.of(name, tree, tau, noise) for name, tree in shapes.items() for tau in taus for noise in NOISES]
    return Study(
        name="beam-width",
        title="Is a wider beam better?",
        question=(
            "The likelihood of a policy that is optimal for β is, up to a constant of the prompt, the conservative "
            "reward r + β log π_ref: a beam searches for that. What does it find in r itself, and what when the policy "
            "is optimal for a wrong reward?"
        ),
        world=f"{TREES:,} random trees of each shape ({', '.join(shapes)}): token rewards r ~ N(0, 1), reference "
        "logits ~ N(0, 1), noise on token rewards of the deviation given; seed 0",
        claims=(*_exact(curves), *(_measured(curves) if world is None else ())),
        figures=tuple(_figure(curves, name, tau) for name in shapes for tau in taus),
        tables=(_table(curves),),
        notes=(
            "Noise is the same at every width and every β, so widths are compared tree by tree; ± and bands are 95 % "
            "intervals of such differences.",
        ),
    )  # fmt: skip


@final
@dataclass(frozen=True)
class _Curve:
    """What the beams of one kind of policy find on every tree; [W X] each."""

    shape: str
    tau: float
    noise: float
    reward: Float[Tensor, "W X"]
    conservative: Float[Tensor, "W X"]
    length: Float[Tensor, "W X"]
    best: Float[Tensor, " X"]  # of the conservative reward, by enumeration

    @staticmethod
    def of(shape: str, tree: Tree, tau: float, noise: float) -> _Curve:
        random = torch.Generator().manual_seed(SEED)
        size = (3, TREES, tree.states, tree.vocab)
        reward, logits, wrong = torch.randn(*size, generator=random, dtype=torch.float64)
        ref = logits.log_softmax(-1)
        logp = exact.soft_values(tree, ref, reward + noise * wrong, tau=tau).logp
        leaves = torch.stack([beam_leaf(tree, logp, width=width) for width in WIDTHS])
        true, base = tree.leaf_sum(reward), tree.leaf_sum(ref)
        conservative = true + tau * base
        return _Curve(
            shape, tau, noise, _at(true, leaves), _at(conservative, leaves), tree.length[leaves].double(),
            conservative.max(-1).values,
        )  # fmt: skip

    def gain(self, what: Float[Tensor, "W X"], width: int) -> tuple[float, float]:
        """(mean, half the 95 % interval) of width − width 1, tree by tree."""
        gap = what[WIDTHS.index(width)] - what[0]
        return float(gap.mean()), NORMAL * float(gap.std()) / len(gap) ** 0.5


def _at(table: Float[Tensor, "X L"], leaves: Int[Tensor, "W X"]) -> Float[Tensor, "W X"]:
    return table.gather(1, leaves.T).T


def _exact(curves: list[_Curve]) -> list[Claim]:
    sure = [one for one in curves if one.noise == 0]
    falls = min(float((one.conservative[-1] - one.conservative[0]).mean()) for one in sure)
    missed = max(float((one.best - one.conservative[-1]).mean()) for one in sure)
    return [
        Claim(
            "With an exact policy, 20 beams find more of r + β log π_ref than one …", PAPER,
            f"least mean gain of width 20 over 1, over {len(sure)} kinds of trees", falls, at_least=0.0,
        ),
        Claim(
            "… and all but the best there is.", PAPER,
            "largest mean of (best by enumeration − found by 20 beams)", missed, at_least=0.0, at_most=0.01,
        ),
    ]  # fmt: skip


def _measured(curves: list[_Curve]) -> list[Claim]:
    """What was found in true reward, which theory does not say."""
    sure = [one for one in curves if one.noise == 0]
    found = []
    ragged = [one for one in sure if bool((one.length != one.length[0, 0]).any())]
    even = [one for one in sure if one not in ragged]
    for one in (max(ragged, key=lambda one: one.tau),):
        mean, half = one.gain(one.reward, 20)
        shorter = one.gain(one.length, 20)
        found.append(
            Claim(
                "Where texts may end early, wider beams lose true reward under the exact policy: its likeliest text is "
                "a short one.", PAPER,
                f"true reward at width 20 − at 1, β = {one.tau:g}, {one.shape}: {mean:+.3f} ± {half:.3f}; tokens "
                f"{shorter[0]:+.2f} ± {shorter[1]:.2f}; measured: the interval's upper end", mean + half, at_most=0.0,
            )
        )  # fmt: skip
    for one in (max(even, key=lambda one: one.tau),):
        mean, half = one.gain(one.reward, 20)
        found.append(
            Claim(
                "Where all texts are equally long, they gain.", PAPER,
                f"true reward at width 20 − at 1, β = {one.tau:g}: {mean:+.3f} ± {half:.3f}; measured: the interval's "
                "lower end", mean - half, at_least=0.0,
            )
        )  # fmt: skip
    return found


def _table(curves: list[_Curve]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in curves:
        cells = [f"{mean:+.3f} ± {half:.3f}" for mean, half in (one.gain(one.reward, w) for w in (2, 5, 20))]
        conservative = "{:+.3f} ± {:.3f}".format(*one.gain(one.conservative, 20))
        lengths = f"{float(one.length[0].mean()):.2f} → {float(one.length[-1].mean()):.2f}"
        first = round(float(one.reward[0].mean()), 3)
        rows.append((one.shape, one.tau, one.noise, first, *cells, conservative, lengths))
    return Table(
        "true reward against width 1",
        ("trees", "β", "noise", "r at 1", "2 beams", "5 beams", "20 beams", "r + β log π_ref, 20 beams", "tokens"),
        tuple(rows),
        note=f"differences of the same {TREES:,} trees, ± half a 95 % interval",
    )


def _figure(curves: list[_Curve], shape: str, tau: float) -> Figure:
    series = []
    for one in (one for one in curves if (one.shape, one.tau) == (shape, tau)):
        gains = [one.gain(one.reward, width) for width in WIDTHS]
        series.append(
            Series(
                f"noise {one.noise:g}", list(map(float, WIDTHS)), [mean for mean, _ in gains],
                low=[mean - half for mean, half in gains], high=[mean + half for mean, half in gains],
            )
        )  # fmt: skip
    return Figure(
        name=f"width-{shape.replace(' ', '-')}-{tau:g}",
        title=f"Beams of the policy's likelihood: {shape}, β = {tau:g}",
        x_label="width", y_label="true reward − that of width 1", series=tuple(series), x_scale="log",
        caption="Noise: deviation of the error in the token rewards for which the policy is optimal. Bands: 95 % "
        "intervals over trees.",
    )  # fmt: skip
