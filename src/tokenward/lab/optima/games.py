"""Closed forms where answers of several laws meet, or a judge of pairs decides; read off streams, steps and terms.

The game. P(y ≻ y′) is what the judge says. Rewarded with its win rate against a law ν, a policy rests where its update
for that reward vanishes: π = F(P(· ≻ ν)), F the closed form of the same recipe for a given reward, π_ref·exp(r/β)/Z for
one. ν follows π, hence a fixed point:

    ν = π                    π ∝ π_ref·exp(P(y ≻ π)/β): the Nash policy of P(π ≻ π′) − β KL(π‖π_ref) + β KL(π′‖π_ref)
    ν = π^{1−c}·π_ref^c      the same against the mixture, token by token: the Nash policy at c = 0 alone
    IPO on pairs of π        m pairs' margins asked for: β_z (lr_i − lr_j) = m (2p_ij − 1) in the mean over pairs of π,
                             which is lr_i = (2m/β_z) P(i ≻ π) + a constant: the Nash policy at β = β_z/(2m)

All derived here. The first is what Munos et al. 2023 call the regularized Nash policy. Where a Bradley–Terry judge asks
for σ of score differences, pairs of any two laws that reach every answer rest at π_ref·exp(u/β)/Z. What does not depend
on the policy's own answer, as a greedy answer's score, moves no point of rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.lab.optima import exact
from tokenward.lab.optima.comparisons import Comparisons, asked
from tokenward.lab.optima.fixed_points import fixed_point
from tokenward.lab.optima.given_pairs import pair_optimum
from tokenward.lab.optima.prediction import NONE, Prediction
from tokenward.lab.solving.reading import moving, sampled, vanishes
from tokenward.lab.solving.streams import stream_law
from tokenward.lab.worlds.world import World
from tokenward.objective.games import Judged, StreamBaseline, WinRate
from tokenward.objective.links import SquareMargin
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.signal.rewards import Outcome
from tokenward.objective.targets import PairTarget, ScorePreference
from tokenward.objective.terms import LogRatio, PairTerm

Law = Float[Tensor, "X L"]
DROPPED = "which groups are dropped depends on their size: no closed form is known"
SEVERAL = "no closed form is known for this mix of laws"
NO_ROOT = "the fixed point of the game was not found: the judge's cycles are strong for this pull"
_ENOUGH = 1e-11  # nats
_ROUNDS = 5_000


def game(recipe: Recipe, world: World, *, guide: Law | None) -> Prediction | None:
    """The closed form of a recipe on rollouts of several laws, or judged in pairs; None for every other recipe."""
    first = recipe.streams[0]
    if first.kind != "rollouts":
        return None
    finite = any(prompt.group is not None for prompt in world.prompts)
    if first.keep == "mixed" and finite and not _zero_at_rest(recipe):
        return Prediction(note=DROPPED)
    if any(isinstance(step, WinRate) for step in recipe.steps):
        return _win_rate(recipe, world, guide)
    if not recipe.steps and len(recipe.terms) == 1 and isinstance(recipe.terms[0], PairTerm):
        return _pairs(recipe, recipe.terms[0], world)
    if any(isinstance(step, StreamBaseline) for step in recipe.steps):
        steps = tuple(step for step in recipe.steps if not isinstance(step, StreamBaseline))
        return _alone(replace(recipe, steps=steps), world, guide)
    return Prediction(note=SEVERAL) if len(recipe.streams) > 1 else None


def _zero_at_rest(recipe: Recipe) -> bool:
    """Whether every advantage is 0 at the point of rest, so that it does not matter which groups are left out."""
    return vanishes(recipe) and all("advantage" in term.reads for term in moving(recipe))


def _alone(recipe: Recipe, world: World, guide: Law | None) -> Prediction:
    """The prediction for the policy's own stream, where no term reads another."""
    if recipe.learned != {0} or recipe.compared:
        return Prediction(note=SEVERAL)
    return fixed_point(replace(recipe, streams=recipe.streams[:1]), world, guide=guide)


def _win_rate(recipe: Recipe, world: World, guide: Law | None) -> Prediction:
    """π = F(P(· ≻ ν) − ½), F the recipe's prediction with an outcome in the place of the win rate."""
    games = [step for step in recipe.steps if isinstance(step, WinRate)]
    if len(games) > 1 or any(isinstance(step, (Outcome, StreamBaseline)) for step in recipe.steps):
        return Prediction(note=SEVERAL)
    rival = recipe.streams[games[0].beside]
    steps = tuple(Outcome() if isinstance(step, WinRate) else step for step in recipe.steps)
    plain = replace(recipe, steps=steps, streams=recipe.streams[:1])
    wins = _wins(Judged(games[0].temperature), world)
    if plain.learned != {0} or plain.compared or wins is None:
        return Prediction(note=SEVERAL)

    def response(law: Law) -> Prediction:
        rate = torch.einsum("xij,xj->xi", wins, stream_law(rival, world, law)) - 0.5
        prompts = (replace(prompt, reward=own) for prompt, own in zip(world.prompts, rate, strict=True))
        return fixed_point(plain, replace(world, prompts=tuple(prompts)), guide=guide)

    start = response(world.ref)
    if start.law is None:
        return start
    itself = rival.own or rival.mixture == 0
    name = ("nash" if itself else "nash_mixture") if start.target == "boltzmann" else f"nash_{start.target}"
    return _at_rest(lambda law: response(law).law, world, name=name)


def _pairs(recipe: Recipe, term: PairTerm, world: World) -> Prediction | None:
    """IPO on the policy's own pairs: the Nash policy. A proper link with a judge of scores: those scores'."""
    score, streams = term.score, [recipe.streams[k] for k in term.streams]
    if not isinstance(score, LogRatio) or (score.anchor, score.pool) != ("ref_logp", "sum"):
        return None if len(recipe.streams) == 1 else Prediction(note=SEVERAL)
    if isinstance(term.link, SquareMargin) and term.compare == "difference":
        wins, pull = _wins(term.target, world), score.beta / (2 * term.link.margin)
        if wins is None or not all(stream.own for stream in streams):
            return Prediction(note=SEVERAL)

        def response(law: Law) -> Law:
            return exact.tilted(world.ref, torch.einsum("xij,xj->xi", wins, law) / pull)

        return _at_rest(response, world, name="nash")
    if len(recipe.streams) == 1:
        return None
    if any(stream.sampler == "greedy" for stream in streams) or 0 not in term.streams:
        return Prediction(note=SEVERAL)
    given = replace(recipe, streams=(Stream("pairs", sampler="policy"),), terms=(replace(term, streams=(0, 0)),))
    return pair_optimum(term, sampled(given, world))


def _wins(target: PairTarget, world: World) -> Float[Tensor, "X L L"] | None:
    """P(i ≻ j) of each prompt, as the target has it; ½ on the diagonal."""
    if not isinstance(target, (Judged, ScorePreference)):
        return None
    found = [asked(target, Comparisons(prompt, prompt.ref)) for prompt in world.prompts]
    return torch.stack([p for p in found if p is not None]) if all(p is not None for p in found) else None


def _at_rest(response: Callable[[Law], Law | None], world: World, *, name: str) -> Prediction:
    """π = response(π): plain rounds π ← response(π) as long as each takes half of what is left, then steps of a game.

    Those are log π ← log π − s·m, m = log π − log response(π) taken a step of s ahead. At ν = π the Jacobian of m is
    1 − P/β on the policies' tangent: where the judge's preferences are cyclic its eigenvalues are 1 ± iω, round which
    a plain round leads outward for any pull that is small enough.
    """
    log, size = world.ref.log(), 0.5
    move, seen, left = _away(log, response), 1, float("inf")
    while move is not None and _ENOUGH < float(move.abs().max()) <= 0.5 * left:
        left = float(move.abs().max())
        log = torch.log_softmax(log - move, dim=-1)
        move, seen = _away(log, response), seen + 1
    while move is not None and float(move.abs().max()) > _ENOUGH and seen < _ROUNDS:
        ahead = _away(log - size * move, response)
        seen += 1
        if ahead is None or not float((ahead - move).abs().max()) <= 0.7 * float(move.abs().max()):
            size /= 2
            continue
        log = torch.log_softmax(log - size * ahead, dim=-1)
        move, seen, size = _away(log, response), seen + 1, min(1.2 * size, 1.0)
    if move is None:
        return NONE
    return Prediction(name, log.exp()) if float(move.abs().max()) <= _ENOUGH else Prediction(note=NO_ROOT)


def _away(log: Law, response: Callable[[Law], Law | None]) -> Law | None:
    """log π − log response(π), less its mean in each prompt; None without a response."""
    answer = response(torch.softmax(log, dim=-1))
    if answer is None:
        return None
    gap = torch.log_softmax(log, dim=-1) - answer.clamp(min=1e-300).log()
    return gap - gap.mean(-1, keepdim=True)
