"""The studies of RTO's theory and of demonstrations with preferences: on other worlds, and numbers again in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.lab.plain import gibbs, kl, random_law, sigmoid, token_logs, tree_world, tv
from tokenward.lab.worlds.world import Labels, World
from tokenward.lab.worlds.world_file import parse_world
from tokenward.report.study_page import write_study
from tokenward.studies.demonstrations import demonstrations
from tokenward.studies.rto import RATIO, _frontier_points, _optimum_claims, _placement_claims, rto
from tokenward.studies.study import write
from tokenward.studies.worlds import bandit, with_prompts


def guided(seed=0) -> tuple[World, torch.Tensor]:
    world = tree_world(vocab=3, horizon=2, eos=2, seed=seed)
    guide = torch.tensor(random_law(np.random.default_rng(seed + 9), world.tree.leaves))
    return replace(world, prompts=(replace(world.prompts[0], guide=guide),)), guide[None]


def test_the_optima_of_rto_again():
    world, guide = guided()
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    claims = {claim.text: claim for claim in _optimum_claims(world, guide)}
    assert all(claim.holds for claim in claims.values())
    ppo = gibbs(ref, reward, 0.7)
    plain = gibbs(ref, RATIO * 0.7 * np.log(guide[0].numpy() / ref) + reward, 0.7)
    assert claims["… which is not RTO's."].measured == pytest.approx(tv(plain, ppo), abs=1e-8)
    words = [tuple(row[:n]) for row, n in zip(world.tree.tokens.tolist(), world.tree.length.tolist(), strict=True)]
    logs = zip(token_logs(words, guide[0].numpy()), token_logs(words, ref), strict=True)
    steps = [RATIO * 0.7 * (np.array(g) - np.array(r)) for g, r in logs]
    seen = {(w[: t + 1]): s for w, row in zip(words, steps, strict=True) for t, s in enumerate(row)}
    clip = sorted(abs(s) for s in seen.values())[(len(seen) - 1) // 2]  # torch's median is the lower one
    cut = gibbs(ref, np.array([np.clip(row, -clip, clip).sum() for row in steps]) + reward, 0.7)
    (moved,) = (claim for text, claim in claims.items() if "moves the optimum" in text)
    assert moved.measured == pytest.approx(tv(cut, plain), abs=1e-8) and moved.measured > 1e-3


def test_placement_claims_hold_and_one_token_leaves_nothing_to_place():
    world, guide = guided(1)
    many = _placement_claims(world, guide)
    assert len(many) == 4 and all(claim.holds for claim in many)
    flat = with_prompts(bandit(), guide=torch.tensor(random_law(np.random.default_rng(2), 5)))
    few = _placement_claims(flat, flat.prompts[0].guide[None])
    assert len(few) == 2 and all(claim.holds for claim in few)


def test_ppo_at_equal_kl_again():
    """By a fine grid over β instead of bisection; RTO stands below, and on it without a guide."""
    world, guide = guided(2)
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    laws = [gibbs(ref, reward, tau) for tau in np.geomspace(0.02, 50, 20_000)]
    pulls, rewards = np.array([kl(law, ref) for law in laws]), np.array([law @ reward for law in laws])
    gaps = []
    for point in _frontier_points(world, guide):
        law = gibbs(ref, point.ratio * 0.7 * np.log(guide[0].numpy() / ref) + reward, 0.7)
        assert (point.reward, point.kl) == pytest.approx((law @ reward, kl(law, ref)), abs=1e-10)
        if point.kl < pulls.max():
            assert point.frontier == pytest.approx(np.interp(-point.kl, -pulls, rewards), abs=1e-4)
        gaps.append(point.frontier - point.reward)
    assert gaps[0] == pytest.approx(0.0, abs=1e-9) and min(gaps[1:]) > 1e-4


def awkward() -> World:
    """Labels that only rank, pairs of the policy's own answers, a demonstration that is never given."""
    return parse_world(
        {
            "tau": 0.5, "vocab": 2, "horizon": 2, "eos": None,
            "prompts": [
                {
                    "ref": [0.4, 0.3, 0.2, 0.1], "reward": [1.0, 0.0, 0.5, -1.0], "demos": [0.6, 0.3, 0.1, 0.0],
                    "labels": {"kind": "deterministic"}, "pairs": "sampler", "sampler": "policy",
                }
            ],
        }
    )  # fmt: skip


@pytest.mark.parametrize("make", [bandit, awkward, lambda: tree_world(vocab=2, horizon=3, eos=1, prompts=2)])
def test_demonstrations_hold_on_other_worlds(make, tmp_path):
    study = demonstrations(make())
    assert not study.failed, [claim.text for claim in study.failed]
    write(study, tmp_path / "data.jsonl")
    assert "hold</h2>" in write_study(tmp_path).read_text()


def test_the_ends_and_the_middle_of_the_compromise_again():
    """Misfits at both ends, and that the middle is at rest, from formulas in numpy."""
    world = bandit()
    study = demonstrations(world)
    ref, reward = world.ref[0].numpy(), world.reward[0].numpy()
    demos, target = gibbs(ref, np.roll(reward, 1), 0.7), gibbs(ref, reward, 0.7)
    of_demos, of_labels = (one.y for one in study.figures[0].series)
    assert of_demos[0] == pytest.approx(kl(demos, target), rel=1e-9) and of_demos[-1] == pytest.approx(0, abs=1e-9)
    implied = 0.7 * np.log(demos / ref)
    p, q = (sigmoid(r[:, None] - r[None, :]) for r in (reward, implied))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert of_labels[-1] == pytest.approx(expected, rel=1e-9) and of_labels[0] == pytest.approx(0, abs=1e-9)
    both = [0.5 * a + 0.5 * b for a, b in zip(of_demos, of_labels, strict=True)]
    assert min(both) == both[study.figures[0].series[0].x.index(0.5)]  # each share is best for its own weighing


def test_demonstrations_that_agree_leave_no_compromise_to_claim():
    world = bandit()
    own = with_prompts(world, demos=world.target[0], labels=Labels())
    texts = [claim.text for claim in demonstrations(own).claims]
    assert not any("disagree" in text for text in texts) and len(texts) == 8


@pytest.mark.slow
@pytest.mark.parametrize("make", [bandit, awkward, lambda: tree_world(vocab=3, horizon=2, eos=2, prompts=2)])
def test_rto_holds_on_other_worlds(make):
    study = rto(make())
    assert not study.failed, [claim.text for claim in study.failed]
