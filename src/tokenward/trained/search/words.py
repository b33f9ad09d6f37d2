"""The results of the study: claims, two tables, figures of the widths and of the strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist, fmean
from typing import Any

from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.studies.study import Claim, Figure, Series, Study, Table

Row = Mapping[str, Any]
NORMAL = 1.96  # standard errors on each side of a 95 % interval
PAPER = (
    "Rafailov et al. 2024, Fig. 2, on TL;DR summaries: 5 beams win 10 to 15 points more often than 1, more beams less"
)
OURS = "measured here"


def told(results: Row) -> Study:
    """Everything that was found, with claims that fail where the numbers do not bear them out."""
    plan = results["settings"]
    return Study(
        name="search",
        title="What does search with a trained model buy?",
        question=(
            "A DPO policy holds a value for every token and PPO leaves a critic. At one budget of tokens read, which "
            "search turns them into reward? And is a wider beam better?"
        ),
        world=(
            f"the built-in text world, a Llama of 0.44 million weights, seed {plan['seed']}, scale {plan['scale']:g}; "
            f"true reward on {plan['prompts']} held-out prompts (strategies) and {plan['width_prompts']} (widths)"
        ),
        claims=tuple(_claims(results)),
        figures=(*_figures(results), _bars(results)),
        tables=(_strategies(results), _widths(results)),
        notes=(
            f"{PAPER}. Here, with true reward in place of a win rate: {_effect(results)}",
            "Beams of the width figures stay as wide as they begin (`places` refilled) and are compared by the sum of "
            "log π over tokens, or by its mean where that is said. Settings of strategies are the largest within the "
            "budget on other prompts; a setting at its end (128) means that the search cannot spend more.",
        ),
    )  # fmt: skip


def gap(one: Row, two: Row, key: str = "reward") -> Estimate:
    """Mean difference over the prompts that both answered."""
    return estimate([a - b for a, b in zip(one[key], two[key], strict=True)])


def _claims(results: Row) -> list[Claim]:
    beams, strategies, plan = results["beams"], results["strategies"], results["settings"]
    sums = [name for name in beams if name.endswith("sum")]
    steps = [
        (fmean(beams[name][after]["logp"]) - fmean(beams[name][before]["logp"]), name)
        for name in sums
        for before, after in _pairs_of(list(beams[name]))
    ]
    least, where = min(steps)
    falls = {
        name: gap(curve[_widest(curve)], curve["1"]) for name, curve in beams.items() if name in sums and "dpo" in name
    }
    reach = NormalDist().inv_cdf(1 - 0.025 / len(falls))  # the best of several ends: a wider interval each
    tops = {name: one.mean + reach * one.se for name, one in falls.items()}
    worst = min(tops, key=lambda name: tops[name])
    best, plain = strategies["DPO, best of n, reward model"], strategies["DPO, one sample"]
    found = gap(best, plain)
    most = max(strategies, key=lambda name: strategies[name]["read"])
    return [
        Claim(
            "A wider beam finds likelier texts.", "what a beam searches for",
            f"least change of mean log π from one width to the next, {len(steps)} steps; least: {where}",
            least, at_least=-0.01,
        ),
        Claim(
            "Wider is not always better: at one β at least, the widest beam has less true reward than a single one.",
            "Rafailov et al. 2024, Fig. 2, report it beyond 5 beams",
            f"true reward of the widest − of 1, of the β where it falls most surely, {worst}: {_plus(falls[worst])}; "
            f"measured: upper end of an interval of {1 - 0.05 / len(falls):.1%}, for {len(falls)} β at once",
            tops[worst], at_most=0.0,
        ),
        Claim(
            "The best of n by a reward model that learned from the same pairs beats one sample.", OURS,
            f"paired difference of true reward: {_plus(found)}; measured: the interval's lower end",
            found.mean - NORMAL * found.se, at_least=0.0,
        ),
        Claim(
            "All strategies read about the same at most.", "how settings are chosen",
            f"largest mean of tokens read per prompt over the budget of {plan['budget']}: {most}",
            strategies[most]["read"] / plan["budget"], at_most=1.25,
        ),
    ]  # fmt: skip


def _effect(results: Row) -> str:
    """The paper's rise to 5 beams and fall beyond, in this world, β by β."""
    words = []
    for name, curve in results["beams"].items():
        if name.startswith("dpo") and name.endswith("sum"):
            rise, fall = gap(curve["5"], curve["1"]), gap(curve[_widest(curve)], curve["5"])
            verdict = f"rise {_found(_sign(rise) > 0)}, fall {_found(_sign(fall) < 0)}"
            words.append(
                f"β = {name.split()[0].removeprefix('dpo-')}: 5 beams − 1 {_plus(rise)}, {_widest(curve)} − 5 "
                f"{_plus(fall)} ({verdict})"
            )
    return "; ".join(words) + "."


def _strategies(results: Row) -> Table:
    rows = []
    for name, one in results["strategies"].items():
        greedy = results["strategies"][f"{name[:3]}, greedy"]
        reward, errors = estimate(one["reward"]), estimate(one["errors"])
        rows.append(
            (
                name, one["setting"], _of(reward), "–" if one is greedy else _plus(gap(one, greedy)), _of(errors),
                f"{fmean(one['length']):.1f}", f"{one['read']:.0f}",
            )
        )  # fmt: skip
    return Table(
        f"strategies at a budget of {results['settings']['budget']} tokens read per prompt",
        ("strategy", "setting", "true reward", "− greedy", "wrong tokens", "length", "tokens read"),
        tuple(rows),
        note="± half a 95 % interval over prompts; tokens that policy, reference, critic and reward model read",
    )


def _widths(results: Row) -> Table:
    rows = []
    for name, curve in results["beams"].items():
        for width, one in curve.items():
            rows.append(
                (
                    name, width, _of(estimate(one["reward"])),
                    "–" if width == "1" else _plus(gap(one, curve["1"])),
                    _of(estimate([float(x) for x in one["length"]])),
                    f"{fmean(one['logp']):.2f}", f"{one['read']:.0f}",
                )
            )  # fmt: skip
    return Table(
        "beams by likelihood",
        ("policy, texts compared by", "width", "true reward", "− 1 beam", "length", "log π", "tokens read"),
        tuple(rows),
        note="± half a 95 % interval over prompts; dpo-β is the DPO policy at that β",
    )


def _figures(results: Row) -> list[Figure]:
    found = []
    labels = {"reward": "true reward", "length": "tokens"}
    for key, label in labels.items():
        series = []
        for name, curve in results["beams"].items():
            values = [estimate([float(x) for x in one[key]]) for one in curve.values()]
            series.append(
                Series(
                    name, [float(width) for width in curve], [value.mean for value in values],
                    low=[value.mean - NORMAL * value.se for value in values],
                    high=[value.mean + NORMAL * value.se for value in values],
                )
            )  # fmt: skip
        found.append(
            Figure(
                name=f"width-{key}", title=f"Beams by likelihood: {label}", x_label="width", y_label=label,
                series=tuple(series), x_scale="log",
                caption="Held-out prompts; bands are 95 % intervals over prompts. “sum” and “mean”: how finished texts "
                "of different lengths are compared.",
            )
        )  # fmt: skip
    return found


def _bars(results: Row) -> Figure:
    names = list(results["strategies"])
    values = [estimate(results["strategies"][name]["reward"]) for name in names]
    return Figure(
        name="strategies", title="Strategies at one budget of tokens read", x_label="", y_label="true reward",
        series=(
            Series(
                "true reward", names, [value.mean for value in values], "bars",
                [value.mean - NORMAL * value.se for value in values],
                [value.mean + NORMAL * value.se for value in values],
            ),
        ),
        caption="95 % intervals over prompts. Samples and greedy texts read less than the budget.",
    )  # fmt: skip


def _pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(names))


def _widest(curve: Row) -> str:
    return max(curve, key=int)


def _sign(found: Estimate) -> int:
    """1 or −1 where the 95 % interval lies on one side of 0, else 0."""
    reach = NORMAL * found.se
    return 1 if found.mean - reach > 0 else -1 if found.mean + reach < 0 else 0


def _found(is_so: bool) -> str:
    return "found" if is_so else "not found"


def _of(found: Estimate) -> str:
    return f"{found.mean:.2f} ± {NORMAL * found.se:.2f}"


def _plus(found: Estimate) -> str:
    return f"{found.mean:+.2f} ± {NORMAL * found.se:.2f}"
