"""The lab through the same lens: every answer of a finite world, token by token, exact in float64."""

from __future__ import annotations

import math
from itertools import product

from torch import Tensor

from tokenward.diagnose.lens.rows import TokenRow
from tokenward.errors import InputError
from tokenward.lab.solving.policy import TabularPolicy
from tokenward.lab.worlds.world import World
from tokenward.models.divergence import mean_under


def lab_rows(policy: TabularPolicy, world: World, *, beta: float | None = None) -> list[TokenRow]:
    """A row for each answer to each prompt, prompt by prompt, with the values that a language model's rows have.

    `beta`: absent, the world's τ, and then the credit of π^τ is the exact optimal advantage. Tokens are their numbers,
    prompts theirs; `score` is the answer's reward. A number that is infinite, at a token that a model rules out, is
    None, and its sum is left out.

    >>> from tokenward.lab.solving.policy import policy_with
    >>> from tokenward.lab.worlds.world import default_world
    >>> world = default_world()
    >>> row = lab_rows(policy_with(world.target, tree=world.tree), world)[0]
    >>> round(row.totals["score"] - row.totals["credit"] - float(world.normalizer[0]), 9)  # Σ credit = r − V*(s₀)
    0.0
    """
    tree, scale = world.tree, world.tau if beta is None else beta
    if policy.tree is not tree and (policy.tree.vocab, policy.tree.states) != (tree.vocab, tree.states):
        raise InputError(f"the policy lives on a tree of {policy.tree.states} states, the world on {tree.states}")
    ours, theirs = policy.table().detach(), tree.conditional(world.ref)
    ratio = ours - theirs
    tables = {
        "credit": scale * ratio,
        "ratio": ratio,
        "logp": ours,
        "ref_logp": theirs,
        "kl": _of_state(ours, ratio),
        "entropy": _of_state(ours, -ours),
        "ref_entropy": _of_state(theirs, -theirs),
    }
    said = {name: tree.rows(table).unflatten(0, (len(world.prompts), tree.leaves)) for name, table in tables.items()}
    places = product(range(len(world.prompts)), range(tree.leaves))
    return [_row(said, world, prompt=prompt, leaf=leaf) for prompt, leaf in places]


def _of_state(law: Tensor, values: Tensor) -> Tensor:
    """Σ_a exp(law_a)·values_a of a state, at every token of the state."""
    return mean_under(law, values).unsqueeze(-1).expand(law.shape)


def _row(said: dict[str, Tensor], world: World, *, prompt: int, leaf: int) -> TokenRow:
    size = int(world.tree.length[leaf])
    values = {name: tuple(value[prompt, leaf, :size].tolist()) for name, value in said.items()}
    sums = {name: sum(values[name], 0.0) for name in ("credit", "ratio", "logp", "ref_logp", "kl")}
    return TokenRow(
        prompt=str(prompt),
        tokens=tuple(str(token) for token in world.tree.tokens[leaf, :size].tolist()),
        values={name: tuple(x if math.isfinite(x) else None for x in column) for name, column in values.items()},
        totals={name: total for name, total in sums.items() if math.isfinite(total)}
        | {"length": float(size), "score": float(world.reward[prompt, leaf])},
    )
