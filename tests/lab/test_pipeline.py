"""Two models in a row, in the lab: where joint DPO ends, by enumeration."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tokenward.errors import InputError
from tokenward.lab.solving.pipeline import Pipeline, train
from tokenward.recipes import build

X, Z, Y, TAU = 3, 4, 3, 0.6


def laws(seed: int):
    random = torch.Generator().manual_seed(seed)
    first = torch.randn(X, Z, generator=random, dtype=torch.float64).softmax(-1)
    return first, torch.randn(Z, Y, generator=random, dtype=torch.float64).softmax(-1)


def world(kind: str, *, seed: int = 0) -> Pipeline:
    """`apart`: r = f(x, z) + g(z, y). `mixed`: y should answer x, which its writer does not see."""
    random = torch.Generator().manual_seed(seed + 10)
    f, g = torch.randn(X, Z, generator=random).double(), torch.randn(Z, Y, generator=random).double()
    reward = f[:, :, None] + g
    if kind == "mixed":
        reward = reward + torch.randn(X, 1, Y, generator=random).double()
    return Pipeline(*laws(seed), reward, TAU)


def loss_of(here: Pipeline, law: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """The mean cross-entropy of the labels under β·log-ratios of whole runs, written out pair by pair."""
    ratio = (law / (here.first[:, :, None] * here.second)).log()
    runs = list(product(range(Z), range(Y)))
    total = norm = 0.0
    for x, (i, one), (j, two) in product(range(X), enumerate(runs), enumerate(runs)):
        w = 1.0 if weight is None else float(weight[i, j])
        p = torch.sigmoid(here.reward[x][one] - here.reward[x][two])
        q = torch.sigmoid(TAU * (ratio[x][one] - ratio[x][two]))
        total += w * float(-(p * q.log() + (1 - p) * (1 - q).log()))
        norm += w
    return total / norm


def test_the_batch_holds_what_it_says():
    here = world("mixed")
    batch = here.batch()
    assert batch.rows == 2 * X * Z * Y and len(batch.pairs) == X * (Z * Y) ** 2
    value = build("dpo", beta=TAU).value(batch, here.stats(laws(5)))
    torch.testing.assert_close(float(value), loss_of(here, here.joint(laws(5))), rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_interaction_is_the_largest_over_all_prompts_and_answers(seed):
    here = world("mixed", seed=seed)
    r = here.reward.tolist()
    every = [
        abs(r[a][z][c] - r[b][z][c] - r[a][z][d] + r[b][z][d])
        for a, b, z, c, d in product(range(X), range(X), range(Z), range(Y), range(Y))
    ]
    assert here.interaction == pytest.approx(max(every), rel=1e-12)


@pytest.mark.parametrize("recipe", ["dpo", "rda"])
@pytest.mark.parametrize("seed", [0, 1])
def test_joint_training_reaches_the_optimum_where_it_is_a_product(recipe, seed):
    here = world("apart", seed=seed)
    assert here.interaction < 1e-12
    (first, second), left = train(build(recipe, beta=TAU), here)
    assert left < 1e-8
    target = here.target
    torch.testing.assert_close(here.joint((first, second)), target, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(first, target.sum(-1), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(second, (target / target.sum(-1, keepdim=True))[1], rtol=1e-5, atol=1e-8)
    best = here.joint(here.best())
    torch.testing.assert_close(best, target, rtol=1e-9, atol=1e-12)


def test_what_is_compared_does_not_matter_there_and_does_where_models_lack_something():
    """Connected comparisons of other weights: the same end in one world, another in the other."""
    weight = torch.rand(Z * Y, Z * Y, generator=torch.Generator().manual_seed(7), dtype=torch.float64) ** 4 + 1e-3
    ends = {}
    for kind in ("apart", "mixed"):
        here = world(kind)
        found = [here.joint(train(build("dpo", beta=TAU), here, weight=w)[0]) for w in (None, weight)]
        ends[kind] = float((found[0] - found[1]).abs().max())
    assert ends["apart"] < 1e-6 and ends["mixed"] > 1e-3


def test_where_the_second_model_lacks_what_matters_no_product_is_optimal():
    here = world("mixed")
    assert here.interaction > 1
    found, left = train(build("dpo", beta=TAU), here)
    assert left < 1e-8
    law, best = here.joint(found), here.joint(here.best())
    assert float((law - here.target).abs().max()) > 0.05
    assert here.value(law) < here.value(best) < here.value(here.target) - 0.05
    assert loss_of(here, law) > loss_of(here, here.target) + 1e-3
    for seed in range(20):  # no product near by predicts the labels better
        random = torch.Generator().manual_seed(seed)
        near = tuple(
            (law.log() + 1e-2 * torch.randn(law.shape, generator=random, dtype=law.dtype)).softmax(-1) for law in found
        )
        assert loss_of(here, here.joint(near)) > loss_of(here, law)


def test_the_best_product_is_one_from_which_neither_model_can_rise():
    here = world("mixed")
    first, second = here.best()
    value = here.value(here.joint((first, second)))
    assert value > here.value(here.joint((here.first, here.second)))
    for seed in range(20):
        random = torch.Generator().manual_seed(seed)
        one, two = (
            (law.log() + 0.1 * torch.randn(law.shape, generator=random, dtype=law.dtype)).softmax(-1)
            for law in (first, second)
        )
        assert here.value(here.joint((one, second))) < value and here.value(here.joint((first, two))) < value


def test_training_one_model_alone_earns_less():
    """The other stays its reference: its rows' log-ratio is 0, and so is its gradient."""
    here = world("apart")
    recipe, batch = build("dpo", beta=TAU), here.batch()
    both = here.value(here.joint(train(recipe, here)[0]))
    for place in (0, 1):
        logits = [law.log().clone() for law in (here.first, here.second)]
        logits[place].requires_grad_()
        optimizer = torch.optim.LBFGS(
            [logits[place]], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-10
        )

        def loss(logits=logits, optimizer=optimizer):
            optimizer.zero_grad()
            value = recipe.value(batch, here.stats((logits[0].softmax(-1), logits[1].softmax(-1))))
            value.backward()
            return value

        optimizer.step(loss)
        alone = here.value(here.joint((logits[0].detach().softmax(-1), logits[1].detach().softmax(-1))))
        assert here.value(here.joint((here.first, here.second))) < alone < both - 1e-3


def test_references_and_tau_are_checked():
    first, second = laws(0)
    for refs, tau in (((first, second), 0.0), ((torch.zeros_like(first), second), TAU)):
        with pytest.raises(InputError, match="tau > 0 and references that are positive everywhere"):
            Pipeline(*refs, torch.zeros(X, Z, Y, dtype=torch.float64), tau)
