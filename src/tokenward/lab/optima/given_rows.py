"""Closed forms for recipes on single responses: regressions on scores or labels, and weighted likelihoods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact, exact_roots
from tokenward.lab.optima.comparisons import is_proper
from tokenward.lab.optima.prediction import NONE, Identified, Prediction, boltzmann
from tokenward.lab.solving.streams import sampling_law
from tokenward.lab.worlds.world import Prompt, World
from tokenward.objective.groups import BoltzmannWeight, MeanReward, MonteCarloNormalizer
from tokenward.objective.links import ScoreFunction, Square, SquashedSquare
from tokenward.objective.targets import GivenNormalizer, Label, LearnedValue, Offset, Score
from tokenward.objective.terms import LogRatio, RowTerm


def row_optimum(term: RowTerm, world: World) -> Prediction:
    """(β lr + c − u)² or a proper loss of σ(β lr + c): zero where sampled if c is free or right."""
    if isinstance(term.target, BoltzmannWeight) and isinstance(term.link, ScoreFunction) and term.score == LogRatio():
        return _weighted_likelihood(term.target, world)
    if isinstance(term.link, SquashedSquare) and isinstance(term.offset, (MeanReward, MonteCarloNormalizer)):
        return NONE  # the offset reads squashed scores, too
    score, wanted = term.score, _wanted(term, world)
    if wanted is None or not isinstance(score, LogRatio) or score.anchor != "ref_logp" or score.pool != "sum":
        return NONE
    laws = sampling_law("scores", world, world.ref)
    found = [
        _Row(prompt, law, u, score.beta).optimum(term, float(v))
        for prompt, law, u, v in zip(world.prompts, laws, wanted, world.normalizer, strict=True)
    ]
    return _together(found, world)


def _wanted(term: RowTerm, world: World) -> Float[Tensor, "X L"] | None:
    """u: what β lr + c should be at each leaf."""
    if isinstance(term.target, Score) and isinstance(term.link, (Square, SquashedSquare)):
        return world.reward  # a squashed score is σ(r)
    if isinstance(term.target, Label) and is_proper(term.link):
        odds = torch.logit(world.desirable)
        return torch.where((odds - world.reward).abs() <= 1e-12, world.reward, odds)
    return None


@final
@dataclass(frozen=True)
class _Found:
    """One prompt's part of a prediction: a law with the temperature at which it is Boltzmann's, or laws within sets."""

    name: str
    law: Float[Tensor, " L"] | None = None
    temperature: float | None = None
    identified: tuple[Identified, ...] | None = None


@final
@dataclass(frozen=True)
class _Row:
    """One prompt's regression: law of single responses, wanted scores, β."""

    prompt: Prompt
    law: Float[Tensor, " L"]
    wanted: Float[Tensor, " L"]
    beta: float

    def optimum(self, term: RowTerm, normalizer: float) -> _Found | None:
        square = isinstance(term.link, Square)
        if self.prompt.on_policy():  # through σ other points of rest than the wanted one are possible
            return self._on_policy(term.offset) if square else None
        if not bool(self.wanted[self.law > 0].isfinite().all()):
            return None
        if isinstance(term.offset, LearnedValue):
            return self._matched(unseen_allowed=0)
        shift = _constant(term.offset, self, normalizer)
        if shift is None:
            return None
        if isinstance(shift, float):
            mass = float(torch.logsumexp(self.prompt.ref.log() + (self.wanted - shift) / self.beta, dim=-1))
            if abs(mass) <= 1e-9 * (1 + abs(shift) / self.beta):
                return self._matched(unseen_allowed=1)
        return self._lambert(self.wanted - shift) if square and bool((self.law > 0).all()) else None

    def _on_policy(self, offset: Offset | None) -> _Found | None:
        """No number of the prompt moves the policy; a mean over k answers takes 1/k of each answer's reward along."""
        size = self.prompt.group
        if size is not None and isinstance(offset, MonteCarloNormalizer):
            return None
        share = 1 - 1 / size if size is not None and isinstance(offset, MeanReward) else 1.0
        return self._boltzmann(self.beta / share) if share > 0 else None

    def _matched(self, *, unseen_allowed: int) -> _Found | None:
        """β lr + c = u where sampled; the normalization fixes one leaf more if c is given, none if c is free."""
        seen = self.law > 0
        if int((~seen).sum()) <= unseen_allowed:
            return self._boltzmann(self.beta)
        leaves = tuple(seen.nonzero().flatten().tolist())
        if len(leaves) < 2:
            return None
        log = self.prompt.ref.log() + torch.where(seen, self.wanted, 0.0) / self.beta
        return _Found("support", identified=(Identified(leaves, torch.softmax(log[seen], dim=-1)),))

    def _boltzmann(self, beta: float) -> _Found:
        law = torch.softmax(self.prompt.ref.log() + self.wanted / beta, dim=-1)
        return _Found("boltzmann", law, beta) if self.wanted.equal(self.prompt.reward) else _Found("odds", law)

    def _lambert(self, advantage: Float[Tensor, " L"]) -> _Found | None:
        law = exact_roots.lambert(self.prompt.ref, self.law, advantage / self.beta)
        return None if law is None else _Found("lambert", law)


def _constant(offset: Offset | None, row: _Row, normalizer: float) -> float | Tensor | None:
    """The number that the offset adds to each score, or to each leaf its own; None: not known in closed form."""
    if offset is None:
        return 0.0
    if isinstance(offset, GivenNormalizer):
        return normalizer
    mean = float(row.law @ row.prompt.reward)
    size = row.prompt.group
    if isinstance(offset, MeanReward):
        return mean if size is None else row.prompt.reward / size + (1 - 1 / size) * mean
    if isinstance(offset, MonteCarloNormalizer) and size is None and not row.prompt.on_policy():
        seen = row.law > 0
        drawn = row.law if offset.drawn == "sampler_logp" else row.prompt.ref
        log = row.law.log() + row.prompt.ref.log() - drawn.log() + row.prompt.reward / offset.beta
        return offset.beta * float(torch.logsumexp(log[seen], dim=-1))
    return None


def _together(found: list[_Found | None], world: World) -> Prediction:
    """The prompts' parts as one prediction: only where all prompts have one of a kind."""
    parts = [one for one in found if one is not None]
    if len(parts) < len(found):
        return NONE
    laws = [one.law for one in parts if one.law is not None]
    if len(laws) == len(parts):
        names = sorted({one.name for one in parts} - {"boltzmann"}) or ["boltzmann"]
        shares = all(math.isclose(one.temperature or 0.0, world.tau, rel_tol=1e-12) for one in parts)
        return Prediction(names[0], torch.stack(laws), shares=shares) if len(names) == 1 else NONE
    return Prediction(identified=tuple(one.identified or _whole(one.law) for one in parts))


def _whole(law: Float[Tensor, " L"] | None) -> tuple[Identified, ...]:
    return () if law is None else (Identified(tuple(range(len(law))), law),)


def _weighted_likelihood(weight: BoltzmannWeight, world: World) -> Prediction:
    """−E_μ[w log π] is least at π ∝ μ·w: Boltzmann's law if the w are those of μ."""
    if any(prompt.on_policy() or prompt.group is not None for prompt in world.prompts):
        return NONE
    laws = sampling_law("scores", world, world.ref)
    drawn = {"sampler_logp": laws, "target": exact.boltzmann(world.ref, world.reward, tau=weight.beta)}
    under = drawn.get(weight.drawn, world.ref)
    log = (
        laws.log()
        if weight.drawn == "target"
        else laws.log() - under.log() + world.ref.log() + world.reward / weight.beta
    )
    law = torch.softmax(torch.where(laws > 0, log, -torch.inf), dim=-1)
    goal = boltzmann(world, beta=weight.beta)
    if goal.law is not None and exact.total_variation(law, goal.law) <= 1e-9:
        return goal
    return Prediction("weighted", law)
