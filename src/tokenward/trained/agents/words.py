"""The results of a story as a study: claims, tables, figures, transcripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenward.studies.study import Cell, Claim, Figure, Series, Study, Table
from tokenward.trained.agents.worlds import World

Row = Mapping[str, Any]
HERE = "measured here"
METHODS = {
    "sft": "SFT", "dpo": "DPO on episodes", "ppo": "PPO", "rto": "RTO, that DPO its guide",
    "cut": "control: PPO, credit cut at observations",
}  # fmt: skip
COLUMNS = {
    "reward": "reward", "right": "right answers", "called": "calls at all", "called_well": "call that helps",
    "turns": "turns", "observed": "observation tokens",
}  # fmt: skip


def told(world: World, results: Row) -> Study:
    """Everything that was found, with claims that fail where the numbers do not bear them out."""
    plan = results["settings"]
    return Study(
        name=world.name,
        title=world.title,
        question=world.question,
        world=(
            f"{world.about}; a Llama of 0.4 million weights, seed {plan['seed']}, scale {plan['scale']:g}; "
            f"{_sample(results)}"
        ),
        claims=(*_gains(world, results), *_acts(world, results)),
        figures=_figures(world, results),
        tables=(_table(world, results), _transcripts(results)),
        notes=_notes(world, results),
    )


def _gains(world: World, results: Row) -> tuple[Claim, ...]:
    """Every method earns more than SFT; PPO is near the best; the control is not."""
    found = results["policies"]
    check = f"bootstrap over prompts, {_sample(results)}; measured: lower end of the paired difference"
    gains = [
        Claim(
            f"{METHODS[name]} earns more than the SFT policy it starts from.", HERE,
            f"{check} {_ends(found[name]['reward_minus_sft'])}", found[name]["reward_minus_sft"]["low"], at_least=0.0,
        )
        for name in ("dpo", "ppo", "rto")
    ]  # fmt: skip
    whole, cut = found["ppo"]["reward"], found["cut"]["reward_minus_ppo"]
    sft = found["sft"]["reward"]["value"]
    return (
        *gains,
        Claim(
            f"PPO goes more than half of the way from SFT to the best possible reward, {world.best:g}.", HERE,
            f"its reward {_ends(whole)}, {_sample(results)}; measured: the share of the way, interval's lower end",
            (whole["low"] - sft) / (world.best - sft), at_least=0.5,
        ),
        Claim(
            "The same PPO with credit cut at observations earns less.",
            "the cut is a known fault of multi-turn trainers; measured here",
            f"bootstrap over prompts, {_sample(results)}; measured: upper end of control − PPO {_ends(cut)}",
            cut["high"], at_most=0.0,
        ),
    )  # fmt: skip


def _acts(world: World, results: Row) -> tuple[Claim, ...]:
    """Whether each policy does what helps more often, and the control less often, than SFT."""
    found = results["policies"]
    claims = []
    for name in ("dpo", "ppo", "rto"):
        gap = found[name]["called_well_minus_sft"]
        claims.append(
            Claim(
                f"{METHODS[name]} {world.act} more often than SFT.", HERE,
                f"share of episodes {_ends(found[name]['called_well'])}, SFT {_ends(found['sft']['called_well'])}; "
                f"measured: lower end of the paired difference {_ends(gap)}",
                gap["low"], at_least=0.0,
            )
        )  # fmt: skip
    gap = found["cut"]["called_well_minus_sft"]
    return (
        *claims,
        Claim(
            f"With credit cut at observations, PPO {world.act} less often than SFT: a turn before an observation is "
            "then blamed for its cost and thanked for nothing.",
            "the cut is a known fault of multi-turn trainers; the sign is derived here",
            f"measured: upper end of the paired difference {_ends(gap)}, {_sample(results)}",
            gap["high"], at_most=0.0,
        ),
    )  # fmt: skip


def _table(world: World, results: Row) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, label in METHODS.items():
        found = results["policies"][name]
        gap = None if name == "ppo" else _ends(found["reward_minus_ppo"])
        rows.append((label, *(_ends(found[key]) for key in COLUMNS), gap))
    return Table(
        f"Held-out episodes; the best possible reward is {world.best:.2f}, without a call {world.blind:.2f}",
        ("policy", *COLUMNS.values(), "reward − PPO's"),
        tuple(rows),
        note=(
            f"Mean (95 % interval, bootstrap over prompts), {_sample(results)}. Best: {world.best_why}. A call that "
            "helps: the environment's answer to it holds the fact that the right answer needs. Intervals are of "
            "prompts and episodes for these trained policies, not of training seeds."
        ),
    )


def _transcripts(results: Row) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in METHODS:
        for shown in results["transcripts"][name]:
            rows.append((METHODS[name], shown["prompt"], " | ".join(shown["turns"]), f"{shown['reward']:.2f}"))
    return Table(
        "Transcripts", ("policy", "prompt", "turns", "reward"), tuple(rows),
        note="The first episode of each of the first three held-out prompts, whatever it shows.",
    )  # fmt: skip


def _figures(world: World, results: Row) -> tuple[Figure, ...]:
    found, curves = results["policies"], results["curves"]
    names = list(METHODS)
    bars = [_bars(COLUMNS[key], [found[name][key] for name in names]) for key in ("reward", "right", "called_well")]
    returns = {name: curve["return"] for name, curve in curves.items()}
    lines = tuple(Series(METHODS[name], [float(x) for x in at], values) for name, (at, values) in returns.items())
    last = max(float(at[-1]) for at, _ in returns.values())
    ends = [1.0, last]
    best = Series("best possible", ends, [world.best, world.best])
    return (
        Figure(
            "rewards", world.title, "", "mean over held-out episodes", tuple(bars),
            f"Reward (best possible {world.best:.2f}), share of right answers, share of episodes that call for what "
            "they need. 95 % intervals, bootstrap over prompts.",
        ),
        Figure(
            "learning", "Reward of the episodes played while learning", "updates", "reward of an episode",
            (*lines, best), "One value per batch of sampled episodes on training prompts; not smoothed.",
        ),
    )  # fmt: skip


def _bars(name: str, rows: list[Row]) -> Series:
    columns = [[row[key] for row in rows] for key in ("value", "low", "high")]
    return Series(name, [METHODS[one].split(":")[0].split(",")[0] for one in METHODS], columns[0], "bars", *columns[1:])


def _notes(world: World, results: Row) -> tuple[str, ...]:
    plan, gap = results["settings"], results["policies"]["rto"]["reward_minus_ppo"]
    sign = "more than" if gap["low"] > 0 else "less than" if gap["high"] < 0 else "not told apart from"
    return (
        f"RTO − PPO in reward: {_ends(gap)}: RTO is {sign} PPO here. Same settings and budget; RTO has the DPO policy "
        f"besides, which has seen labels of {results['pairs']['pairs']} pairs of SFT episodes.",
        "Pairs: two SFT episodes of one training prompt, the first preferred with probability "
        f"σ({plan['sharpness']:g} (r_first − r_second)); equal rewards are left out. Observation tokens of both stand "
        "in the rows, masked.",
        world.transitions,
        f"Whole command {results['seconds']:.0f} s on one thread.",
    )


def _sample(results: Row) -> str:
    return f"{results['counts']['prompts']} held-out prompts × {results['counts']['episodes']} episodes"


def _ends(found: Row) -> str:
    """An estimate and its interval: `0.12 (0.10 to 0.14)`."""
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
