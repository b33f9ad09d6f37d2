"""The tabular policy, and the Batch and TokenStats of a world in which every sequence is a row.

One row per leaf per prompt and stream: weight = its probability under the sampler × the prompt's weight, group =
prompt, group size infinite. What a language model would estimate from samples is exact here; the recipe cannot tell
the difference.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.errors import InputError
from tokenward.lab.solving.groups import Rows, is_grouped, rows_of, ungrouped
from tokenward.lab.solving.reading import stream_kind
from tokenward.lab.solving.streams import pairs_played, rows_played, sampling_law
from tokenward.lab.worlds.tree import Tree
from tokenward.lab.worlds.world import Listed, World, compared
from tokenward.masking import keep, spans
from tokenward.objective.links import SquashedSquare
from tokenward.objective.recipe import Recipe
from tokenward.objective.signal.advantages import GAE
from tokenward.objective.terms import RowTerm
from tokenward.types import Batch, Signal, TokenStats


@final
@dataclass(frozen=True)
class TabularPolicy:
    """π(a|s) = softmax of the logits of each prompt's state."""

    tree: Tree
    logits: Float[Tensor, "X S V"]

    def table(self) -> Float[Tensor, "X S V"]:
        """log π(a|s)."""
        return torch.log_softmax(self.logits, dim=-1)

    def law(self) -> Float[Tensor, "X L"]:
        """π of each leaf."""
        return self.tree.leaf_sum(self.table()).exp()


def log_linear(world: World, features: Float[Tensor, "X L F"], theta: Float[Tensor, " F"]) -> TabularPolicy:
    """π(y) = π_ref(y)·exp(φ(y)·θ)/Z in token form; θ is shared by the prompts."""
    return TabularPolicy(world.tree, world.tree.log_conditional(world.ref.log() + features @ theta))


def policy_with(law: Float[Tensor, "X L"], *, tree: Tree) -> TabularPolicy:
    """The policy whose leaves have this law (positive everywhere)."""
    return TabularPolicy(tree, tree.conditional(law))


def batch_of(recipe: Recipe, world: World, law: Float[Tensor, "X L"]) -> Batch:
    """All rows, with the fields that the recipe's streams have; `law` is that of the policy that samples."""
    kind = stream_kind(recipe)
    laws = sampling_law(kind, world, law)
    rows, origin = rows_played(recipe, world, law)
    batch = replace(_unpaired(recipe, world, rows, laws), origin=origin)
    if "pairs" not in recipe.needs:
        return batch
    if kind != "rollouts":
        return _with_pairs(batch, world, laws)
    found = pairs_played(recipe, rows, origin)
    batch = replace(batch, pairs=found.pairs, pair_weight=found.weight)
    if all(prompt.labels.matrix is None for prompt in world.prompts):
        return batch  # the judge is one of scores
    return replace(batch, pair_target=_judged(world, rows.place[found.pairs]))


def _unpaired(recipe: Recipe, world: World, rows: Rows, laws: Float[Tensor, "X L"]) -> Batch:
    """The rows without pairs; `laws` are those that the first stream's answers are drawn from."""
    tree = world.tree
    leaf = rows.place % tree.leaves
    reward = world.reward.flatten()
    squashed = any(isinstance(term, RowTerm) and isinstance(term.link, SquashedSquare) for term in recipe.terms)
    batch = Batch(
        tokens=tree.tokens[leaf],
        length=tree.length[leaf],
        mask=tree.mask[leaf],
        group=rows.group,
        weight=rows.weight,
        score=(torch.sigmoid(reward) if squashed else reward)[rows.place],
        group_size=rows.size,
    )
    if "label" in recipe.needs:
        batch = replace(batch, label=world.desirable.flatten()[rows.place])
    if "normalizer" in recipe.needs:
        batch = replace(batch, normalizer=world.normalizer.repeat_interleave(tree.leaves)[rows.place])
    if (
        "sampler_logp" in recipe.needs
    ):  # leaves that are never drawn have weight 0; their log-probability must be finite
        drawn = tree.conditional(laws.detach().clamp(min=1e-300))
        batch = replace(batch, sampler_logp=tree.rows(drawn)[rows.place])
    if "segment" in recipe.needs:
        ends = torch.isin(batch.tokens, torch.tensor(world.delimiters, dtype=torch.long))
        batch = replace(batch, segment=spans(batch.mask, ends))
    return batch


def _judged(world: World, place: Int[Tensor, "P 2"]) -> Float[Tensor, " P"]:
    """P(first is preferred) of each pair of places, as the world's labels say; ½ for an answer and itself."""
    leaves = world.tree.leaves
    p = torch.full((len(place),), 0.5, dtype=torch.float64)
    for i, prompt in enumerate(world.prompts):
        here = (place[:, 0] // leaves == i) & (place[:, 0] != place[:, 1])
        p[here] = prompt.labels.prefer(prompt.reward, place[here] % leaves)
    return p


def _with_pairs(batch: Batch, world: World, laws: Float[Tensor, "X L"]) -> Batch:
    """The given pairs of every prompt, and who is preferred."""
    found: list[Listed] = []
    wins: list[Tensor] = []
    for i, prompt in enumerate(world.prompts):
        here = compared(prompt, laws[i])
        wins.append(prompt.labels.prefer(prompt.reward, here.pairs))
        found.append(Listed(here.pairs + i * world.tree.leaves, here.weight * world.weight[i]))
    return replace(
        batch,
        pairs=torch.cat([here.pairs for here in found]),
        pair_weight=torch.cat([here.weight for here in found]),
        pair_target=torch.cat(wins),
    )


@final
@dataclass(frozen=True)
class Models:
    """What speaks about the rows: policy, the policy that sampled (`old`), guide, learned values, a reward model."""

    policy: TabularPolicy
    old: TabularPolicy
    guide: Float[Tensor, "X L"] | None = None
    value: Float[Tensor, " X"] | None = None
    score: Float[Tensor, "X L"] | None = None


def stats_of(recipe: Recipe, world: World, batch: Batch, models: Models) -> TokenStats:
    """The fields of TokenStats that the recipe needs. The critic is that of `old`, exact or zero."""
    tree, needs, kind = world.tree, recipe.needs, stream_kind(recipe)
    several = is_grouped(kind, world) or len(recipe.streams) > 1 or recipe.streams[0].keep == "mixed"
    table, old = models.policy.table(), models.old.table().detach()
    ref = tree.conditional(world.ref)
    fields: dict[str, Tensor] = {"logp": tree.rows(table), "old_logp": tree.rows(old), "ref_logp": tree.rows(ref)}
    if "guide_logp" in needs or "guide_ref_logp" in needs:
        if models.guide is None:
            raise InputError(f"recipe {recipe.name} needs a guide: give the world a guide")
        fields |= {"guide_logp": tree.rows(tree.conditional(models.guide)), "guide_ref_logp": tree.rows(ref)}
    if "kl_ref" in needs:
        fields["kl_ref"] = _at_states(tree, (table.exp() * (table - ref)).sum(-1))
    if "kl_old" in needs:
        fields["kl_old"] = _at_states(tree, (table.exp() * (table - old)).sum(-1))
    if "entropy" in needs:
        fields["entropy"] = _at_states(tree, -(table.exp() * table).sum(-1))
    if models.score is not None:
        fields["model_score"] = models.score.flatten()
    if "old_value" in needs:
        zero = TokenStats(**{**fields, "old_value": torch.zeros_like(fields["logp"])})
        every = batch
        if several:
            alone, laws = ungrouped(world), sampling_law(kind, world, models.old.law())
            every = _unpaired(recipe, alone, rows_of(kind, alone, laws), laws)
        fields["value"] = fields["old_value"] = critic(recipe, world, every, zero)
    elif models.value is not None:
        fields["value"] = _at_states(tree, models.value[:, None].expand(-1, tree.states))
    if several:
        place = rows_played(recipe, world, models.old.law())[0].place
        fields = {name: field[place] for name, field in fields.items()}
    return TokenStats(**fields)


def critic(recipe: Recipe, world: World, batch: Batch, stats: TokenStats) -> Float[Tensor, "B T"]:
    """V_old(s) = E_{π_old}[Σ_{t′≥t} γ^{t′−t} r_t′ | s] of the recipe's own token rewards; 0 where the world says so."""
    signal: Signal = recipe.signal(
        batch, TokenStats(**{k: v.detach() for k, v in vars(stats).items() if v is not None})
    )
    if signal.reward is None or stats.old_logp is None:
        raise InputError(f"recipe {recipe.name} needs a critic, but makes no token rewards; put a reward step first")
    gamma = next((step.gamma for step in recipe.steps if isinstance(step, GAE)), 1.0)
    tree = world.tree
    ahead = torch.zeros_like(batch.weight, dtype=torch.float64)
    log_rest = torch.zeros_like(ahead)  # log-probability of the tokens from t on, given the state before t
    states = torch.arange(len(world.prompts))[:, None, None] * tree.states + tree.state
    place = states.flatten(0, 1)
    value = torch.zeros(len(world.prompts) * tree.states, dtype=torch.float64)
    for t in reversed(range(tree.horizon)):
        here = batch.mask[:, t]
        ahead = torch.where(here, signal.reward[:, t] + gamma * ahead, 0.0)
        log_rest = torch.where(here, stats.old_logp[:, t] + log_rest, 0.0)
        value = value.index_add(0, place[here, t], (log_rest.exp() * ahead)[here])
    exact = torch.tensor([prompt.critic == "exact" for prompt in world.prompts]).repeat_interleave(tree.leaves)
    return torch.where(exact[:, None], keep(value[place], batch.mask), 0.0)


def _at_states(tree: Tree, value: Float[Tensor, "X S"]) -> Float[Tensor, "B T"]:
    """The value of the state before each token."""
    return tree.rows(value[..., None].expand(-1, -1, tree.vocab))
