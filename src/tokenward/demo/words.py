"""The demo's results in words: the table for the terminal, and the sentences that say what was found."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
LABELS = {
    "sft": "SFT", "dpo": "DPO", "ppo": "PPO", "rto": "RTO", "best_of_n": "best of n by reward model",
    "best_of_n_implicit": "best of n by implicit reward", "beam": "beam by likelihood",
}  # fmt: skip


def table(summary: Row) -> str:
    """Methods and searches, one line each, as rich draws it."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title="held-out prompts, true reward; ± one standard error", title_justify="left")
    for name in ("method", "true reward", "KL to SFT", "wrong tokens", "length", "seconds"):
        drawn.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for name, row in [*summary["methods"].items(), *summary["search"].items()]:
        drawn.add_row(
            LABELS.get(name, name),
            f"{row['reward']:.2f} ± {row['reward_se']:.2f}",
            f"{row['kl']:.2f} ± {row['kl_se']:.2f}",
            f"{row['error_rate']:.2f}",
            f"{row['length']:.1f}",
            f"{row['seconds']:.0f}" if "seconds" in row else "",
        )
    words = io.StringIO()
    Console(file=words, width=100).print(drawn)
    return words.getvalue().rstrip()


def notes(summary: Row) -> list[str]:
    """What the numbers say, and what they are."""
    methods, search, plan = summary["methods"], summary["search"], summary["settings"]
    found = [
        f"{LABELS[name]} is {_apart(methods[name], methods['sft'], of='SFT')}." for name in methods if name != "sft"
    ]
    found.append(_rto(summary))
    found.append(_search(methods["dpo"], search, plan))
    found.append(_ceiling(methods, search, summary["ceiling"], plan))
    span = " to ".join(f"{x:.2f}" for x in summary["credit_auc_interval"])
    found.append(
        f"DPO's implicit advantage finds wrong tokens with AUC {summary['credit_auc']:.3f} (95 % interval {span}), the "
        f"same DPO on random labels with {summary['credit_auc_random_labels']:.3f}."
    )
    accuracy = summary["heldout_accuracy"]
    found.append(
        f"Held-out pairs ranked as labeled: DPO {accuracy['dpo']['accuracy']:.2f}, reward model "
        f"{accuracy['reward_model']['accuracy']:.2f}, DPO on random labels "
        f'{accuracy["dpo-random-labels"]["accuracy"]:.2f}, "the longer answer wins" '
        f"{accuracy['longer_wins']['accuracy']:.2f}."
    )
    found.append(
        f"Wrong tokens: per text. KL: mean of Σ log π/π_sft on own samples, nats. {plan['held_prompts']} prompts × "
        f"{plan['texts']} texts, standard errors clustered by prompt; seconds are those of a method's own training."
    )
    return found


def _apart(one: Row, two: Row, *, of: str) -> str:
    """`above SFT in true reward (+1.20 ± 0.10)` and the like."""
    gain = one["reward"] - two["reward"]
    error = math.hypot(one["reward_se"], two["reward_se"])
    return f"{compared(gain, error)} {of} in true reward ({gain:+.2f} ± {error:.2f})"


def compared(gain: float, error: float) -> str:
    """A difference in words, at two standard errors.

    >>> compared(1.0, 0.2), compared(0.1, 0.2), compared(-1.0, 0.2)
    ('above', 'not to be told from', 'below')
    """
    if not abs(gain) > 2 * error:
        return "not to be told from"
    return "above" if gain > 0 else "below"


def _rto(summary: Row) -> str:
    gain, error = summary["rto_minus_ppo"]["reward"], summary["rto_minus_ppo"]["reward_se"]
    ppo, rto = summary["methods"]["ppo"], summary["methods"]["rto"]
    plan = summary["settings"]
    return (
        f"RTO (β_guide {plan['beta_guide']:g}, β_kl {plan['beta_kl']:g}) is {compared(gain, error)} PPO at the same "
        f"tuning and budget ({gain:+.2f} ± {error:.2f} on the same prompts), at KL {rto['kl']:.1f} against "
        f"{ppo['kl']:.1f}."
    )


def _search(dpo: Row, search: Mapping[str, Row], plan: Row) -> str:
    parts = [
        f"{LABELS[name]} {row['reward'] - dpo['reward']:+.2f} ({row['tokens']:.0f} tokens read a prompt)"
        for name, row in search.items()
    ]
    return (
        f"Against sampling from DPO: {'; '.join(parts)}. n = {plan['best_of']}, width {plan['width']}, "
        f"{plan['search_prompts']} prompts. KL of best of n: upper bound; of a beam: −log π_sft of its one text."
    )


def _ceiling(methods: Mapping[str, Row], search: Mapping[str, Row], points: list[Row], plan: Row) -> str:
    over = [
        LABELS[name]
        for name, row in [*methods.items(), *search.items()]
        if "ceiling" in row and row["reward"] - row["ceiling"] > 2 * math.hypot(row["reward_se"], row["ceiling_se"])
    ]
    reach = f"drawn up to KL {points[-1]['kl']:.2f}" if points else "not drawn: too few effective samples"
    under = [LABELS[name] for name, row in [*methods.items(), *search.items()] if "ceiling" in row and name != "sft"]
    seen = f"{', '.join(over)} above it by more than two standard errors" if over else "nothing above it"
    beyond = "" if under else "; every method is further from SFT than that"
    return (
        f"Gibbs ceiling: {reach} ({plan['ceiling_samples']} SFT samples of each of {plan['ceiling_prompts']} prompts, "
        f"at least 50 effective for the poorest); {seen}{beyond}."
    )
