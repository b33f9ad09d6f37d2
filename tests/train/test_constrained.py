"""Constrained steps, and the exact KL to the policy a batch began with: against plain numpy and finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import runs, tiny
from tests.train.test_resume import Killed, same
from tokenward.errors import InputError
from tokenward.models.adapters import add_lora
from tokenward.models.curvature import fisher_product, flat, move, trained
from tokenward.models.load import scorer
from tokenward.models.roles import Roles, trailing
from tokenward.objective.advice import Facts, advise
from tokenward.recipes import build
from tokenward.runlog import read
from tokenward.train import loop
from tokenward.train.assemble import Run, assemble
from tokenward.train.config import RunConfig
from tokenward.train.constrained import ConstrainedLearner, Trial, conjugate_gradient
from tokenward.train.runtime import session
from tokenward.train.settings import Settings
from tokenward.train.update import Piece
from tokenward.types import Batch

NATURAL = """
from dataclasses import replace
from tokenward.objective.updates import ConstrainedStep
from tokenward.recipes import build

def natural_dpo():
    return replace(build("dpo"), update=ConstrainedStep(max_kl=0.003))
"""


def adapted(*, seed: int = 0):
    """A policy with LoRA adapters whose B is not zero."""
    model = tiny.llama(seed=seed, dtype=torch.float64)
    wrapped = add_lora(model, rank=2, alpha=4.0, targets=None, seed=1)
    policy = scorer(model, peft=wrapped)
    for i, parameter in enumerate(trained(policy)):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(i))
    return policy.double()


def laws(policy, batch: Batch, *, temperature: float = 1.0) -> np.ndarray:
    """log π(·|s) before every trainable token, from the model itself: [N V]."""
    return tiny.laws(policy, batch.tokens, temperature=temperature)[:, :-1][batch.mask[:, 1:].numpy()]


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (np.exp(p) * (p - q)).sum(-1)


def directions(policy, *, number: int = 1) -> list[torch.Tensor]:
    size = sum(p.numel() for p in trained(policy))
    return [torch.randn(size, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(number)]


@pytest.fixture(params=["whole", "lora"])
def policy(request: pytest.FixtureRequest):
    return tiny.tiny(dtype=torch.float64) if request.param == "whole" else adapted()


# ------------------------------------------------------------------------------------------------- Fisher products


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_fisher_product_is_the_variance_of_the_slopes_of_log_pi(policy, temperature: float) -> None:
    """F v = Σ_rows w Σ_t Σ_a π(a) ∇log π(a) (∇log π(a)·v): by one gradient of the model for each a and t."""
    batch, (v,) = tiny.batch(lengths=(6, 4), prompts=(3, 2)), directions(policy)
    weight = torch.tensor([0.5, 2.0], dtype=torch.float64)
    product = fisher_product(policy, batch, v, weight=weight, temperature=temperature)
    logits = policy.causal_lm(input_ids=batch.tokens, use_cache=False).logits / temperature
    rows, columns = batch.mask.nonzero(as_tuple=True)
    law = logits[rows, columns - 1].log_softmax(-1)
    expected = torch.zeros_like(v)
    for state, row in zip(law, rows, strict=True):
        for log in state:
            slope = flat(torch.autograd.grad(log, trained(policy), retain_graph=True, materialize_grads=True))
            expected += weight[row] * log.detach().exp() * slope * (slope @ v)
    assert expected.norm() > 1
    torch.testing.assert_close(product, expected, rtol=1e-5, atol=1e-7 * float(expected.norm()))


def test_a_fisher_product_is_the_change_of_the_slope_of_the_kl(policy) -> None:
    """F v by finite differences of ∇KL(π_old‖π), and symmetric. The model's norms round to float32."""
    batch, (v, other), h = tiny.batch(), directions(policy, number=2), 1e-4
    weight = torch.ones(batch.rows, dtype=torch.float64)
    product = fisher_product(policy, batch, v, weight=weight)
    mirrored = float(fisher_product(policy, batch, other, weight=weight) @ v)
    assert float(product @ other) == pytest.approx(mirrored, rel=1e-5)
    old, slopes = trailing(policy), []
    for by in (h, -2 * h):
        move(policy, v, by=by)
        divergence = policy(batch, fields=frozenset({"kl_of_old"}), old=old).kl_of_old.sum()
        slopes.append(flat(torch.autograd.grad(divergence, trained(policy), materialize_grads=True)))
    expected = (slopes[0] - slopes[1]) / (2 * h)
    assert float((product - expected).norm()) < 2e-3 * float(expected.norm())


@pytest.mark.parametrize("micro_tokens", [1, 12, 20])
def test_a_fisher_product_is_the_same_under_every_split(policy, micro_tokens: int) -> None:
    batch, (v,) = tiny.batch(), directions(policy)
    weight = torch.ones(batch.rows, dtype=torch.float64)
    whole = fisher_product(policy, batch, v, weight=weight)
    parts = fisher_product(policy, batch, v, weight=weight, micro_tokens=micro_tokens)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)
    policy.chunk_floats = 80  # two tokens at the head at a time: it is computed again in backward, twice
    torch.testing.assert_close(fisher_product(policy, batch, v, weight=weight), whole, rtol=1e-9, atol=1e-12)


def test_conjugate_gradient_solves_and_says_what_is_left() -> None:
    random = np.random.default_rng(0)
    root = random.normal(size=(6, 6))
    matrix, target = root @ root.T + 0.1 * np.eye(6), random.normal(size=6)
    given = torch.tensor(matrix)
    found, left = conjugate_gradient(lambda v: given @ v, torch.tensor(target), steps=30)
    np.testing.assert_allclose(found.numpy(), np.linalg.solve(matrix, target), rtol=1e-8)
    some, left = conjugate_gradient(lambda v: given @ v, torch.tensor(target), steps=2)
    np.testing.assert_allclose(left.numpy(), target - matrix @ some.numpy(), rtol=1e-10)
    nothing, _ = conjugate_gradient(lambda v: given @ v, torch.zeros(6, dtype=torch.float64), steps=3)
    assert not nothing.any()


# ------------------------------------------------------------------------------------- the policy of before: kl_old


@pytest.mark.parametrize("chunk_floats", [2**24, 80])
def test_both_directions_of_the_kl_to_the_old_policy(policy, chunk_floats: int) -> None:
    batch, old = tiny.batch(), trailing(policy)
    before = laws(policy, batch, temperature=0.7)
    move(policy, directions(policy)[0], by=0.05)
    now = laws(policy, batch, temperature=0.7)
    policy.chunk_floats = chunk_floats
    stats = policy(batch, fields=frozenset({"kl_old", "kl_of_old", "logp"}), temperature=0.7, old=old)
    assert np.abs(kl(now, before) - kl(before, now)).max() > 1e-3
    for name, expected in (("kl_old", kl(now, before)), ("kl_of_old", kl(before, now))):
        np.testing.assert_allclose(getattr(stats, name)[batch.mask].detach().numpy(), expected, rtol=1e-9)
        assert not getattr(stats, name)[~batch.mask].any()


def test_the_kl_has_no_gradient_where_it_begins_and_none_enters_the_old_policy(policy) -> None:
    batch, old = tiny.batch(), trailing(policy)
    for name in ("kl_old", "kl_of_old"):
        start = getattr(policy(batch, fields=frozenset({name}), old=old), name).sum()
        slope = flat(torch.autograd.grad(start, trained(policy), materialize_grads=True))
        assert float(start.detach().abs()) < 1e-12 and float(slope.abs().max()) < 1e-10
    assert not any(p.requires_grad for p in old.parameters())


def test_with_adapters_only_they_are_held_twice() -> None:
    policy = adapted()
    roles = Roles(policy=policy, old=trailing(policy))
    assert roles.remembered() and all("lora_" in name for name in roles.remembered())
    shared = {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in roles.old.parameters()}
    assert len(shared) == sum(not p.requires_grad for p in policy.parameters())
    start = flat([p.detach().clone() for p in trained(policy)])
    move(policy, directions(policy)[0], by=0.1)
    assert not torch.equal(flat([p.detach() for p in trained(policy)]), start)
    roles.go_back()
    assert torch.equal(flat([p.detach() for p in trained(policy)]), start)


def test_without_an_old_policy_one_line_says_so() -> None:
    with pytest.raises(InputError, match=r"\['kl_old'\] needs the policy as it was, as a model; none is held"):
        tiny.tiny()(tiny.batch(), fields=frozenset({"kl_old"}))


# -------------------------------------------------------------------------------------------------------- the step


@contextmanager
def opened(
    config: RunConfig, recipe: str = "trpo", **keywords: object
) -> Iterator[tuple[Run, Piece, ConstrainedLearner]]:
    """A run, its first batch and its learner."""
    with session(config) as runtime:
        run = assemble(Settings(recipe, keywords, config), runtime)
        batch = run.source.next()
        frozen = run.roles.frozen(batch, run.recipe.needs)
        piece = Piece(batch, frozen, run.recipe.signal(batch, frozen))
        learner = ConstrainedLearner(
            run.recipe, roles=run.roles, optimizer=run.optimizer, runtime=runtime, config=config
        )
        yield run, piece, learner


def everything(run: Run) -> torch.Tensor:
    return flat([p.detach().clone() for module in run.modules.values() for p in module.parameters()])


@pytest.mark.parametrize("more", [{}, pytest.param({"lora_rank": 2}, marks=pytest.mark.slow)], ids=["whole", "lora"])
def test_the_step_is_the_same_under_every_split(more: dict[str, object], tmp_path: Path) -> None:
    found, told = [], []
    for micro_tokens in (10_000, 48, 1):
        config = runs.config(tmp_path, "trpo", dtype="float64", micro_tokens=micro_tokens, **more)
        with opened(config, cg_steps=3, critic_updates=1) as (run, piece, learner):
            before = everything(run)
            told.append(learner.step(piece).values)
            found.append(everything(run) - before)
    assert found[0].abs().max() > 1e-3
    for other, values in zip(found[1:], told[1:], strict=True):
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-9)
        assert values == pytest.approx(told[0], rel=1e-6)


def test_the_step_is_the_damped_natural_gradient_scaled_to_the_bound(tmp_path: Path) -> None:
    """Enough conjugate gradient solves exactly: against numpy with F written out column by column (adapters alone)."""
    config = runs.config(tmp_path, "trpo", dtype="float64", lora_rank=1, lora_targets="q_proj")
    with opened(config, cg_steps=70, damping=0.3, max_kl=1e-4, critic_updates=0) as (run, piece, learner):
        policy, batch = run.roles.policy, piece.batch
        tokens = float(batch.mask.sum())
        logp = policy(batch, fields=frozenset({"logp"})).logp
        surrogate = (torch.exp(logp - piece.frozen.old_logp) * piece.signal.advantage)[batch.mask].sum() / tokens
        slope = flat(torch.autograd.grad(surrogate, trained(policy))).numpy()
        units = torch.eye(len(slope), dtype=torch.float64)
        weight = torch.full((batch.rows,), 1 / tokens, dtype=torch.float64)
        fisher = np.stack([fisher_product(policy, batch, unit, weight=weight).numpy() for unit in units])
        damped = fisher + 0.3 * np.eye(len(slope))
        direction = np.linalg.solve(damped, slope)
        length = np.sqrt(2 * 1e-4 / (direction @ damped @ direction))
        before = flat([p.detach().clone() for p in trained(policy)]).numpy()
        told = learner.step(piece).values
        moved = flat([p.detach() for p in trained(policy)]).numpy() - before
    assert told["trust/step"] == 1 and told["trust/cg_residual"] < 1e-6
    np.testing.assert_allclose(moved, length * direction, rtol=1e-5, atol=1e-9)
    assert told["trust/improvement"] == pytest.approx(float(slope @ moved), rel=0.1)


def test_the_realized_kl_is_what_numpy_says_and_within_the_bound(tmp_path: Path) -> None:
    config = runs.config(tmp_path, "trpo", dtype="float64", temperature=0.7)
    with opened(config, max_kl=0.02) as (run, piece, learner):
        before = laws(run.roles.policy, piece.batch, temperature=0.7)
        told = learner.step(piece).values
        now = laws(run.roles.policy, piece.batch, temperature=0.7)
    assert told["trust/kl"] == pytest.approx(kl(before, now).mean(), rel=1e-9)
    assert 0.005 < told["trust/kl"] <= 0.02
    assert told["trust/improvement"] > 0 and told["trust/ratio_max"] > 1


def bounded(folder: Path, *, bound: float, updates: int, lora_rank: int = 0, **keywords: float) -> None:
    config = runs.config(folder, "trpo", updates=updates, lora_rank=lora_rank)
    loop.run(config, "trpo", keywords={"max_kl": bound, "critic_updates": 1, **keywords}, show="nothing")
    told = [event for event in read(folder / "run" / "events.jsonl") if event["event"] == "update"]
    assert len(told) == updates and all(float(one["trust/kl"]) <= bound for one in told)
    assert sum(float(one["trust/step"]) > 0 for one in told) >= 0.8 * updates
    assert all(one["trust/improvement"] > 0 for one in told if one["trust/step"])
    assert max(float(one["trust/kl"]) for one in told) > 0.2 * bound


def test_no_update_of_a_run_goes_beyond_the_bound(tmp_path: Path) -> None:
    bounded(tmp_path, bound=0.01, updates=6, cg_steps=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bound", "damping", "lora_rank"), [(0.01, 0.1, 0), (0.3, 0.0, 0), (0.001, 0.1, 2)], ids=["default", "wide", "lora"]
)
def test_no_update_of_a_long_run_goes_beyond_the_bound(
    bound: float, damping: float, lora_rank: int, tmp_path: Path
) -> None:
    bounded(tmp_path, bound=bound, updates=40, lora_rank=lora_rank, damping=damping)


def test_where_no_trial_will_do_the_policy_stays_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = ConstrainedLearner._try, []

    def too_far(self: ConstrainedLearner, piece: Piece) -> Trial:
        calls.append(plain(self, piece))
        return calls[-1] if len(calls) == 1 else replace(calls[-1], kl=0.011 if len(calls) % 2 else float("nan"))

    monkeypatch.setattr(ConstrainedLearner, "_try", too_far)
    with opened(runs.config(tmp_path, "trpo"), backtracks=4, critic_updates=0) as (run, piece, learner):
        before = everything(run)
        told = learner.step(piece).values
        assert torch.equal(everything(run), before)
    assert len(calls) == 5 and len({one.kl for one in calls}) == 5  # the start, and four different trials
    assert (told["trust/kl"], told["trust/step"], told["trust/improvement"]) == (0, 0, 0)


def test_a_trial_that_makes_the_surrogate_worse_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = ConstrainedLearner._try, []

    def worse(self: ConstrainedLearner, piece: Piece) -> Trial:
        calls.append(plain(self, piece))
        return replace(calls[-1], loss=calls[0].loss) if len(calls) in (2, 3) else calls[-1]

    monkeypatch.setattr(ConstrainedLearner, "_try", worse)
    with opened(runs.config(tmp_path, "trpo"), shrink=0.3) as (_, piece, learner):
        assert learner.step(piece).values["trust/step"] == pytest.approx(0.09)


def test_a_second_trial_starts_from_the_old_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = ConstrainedLearner._try, []

    def too_far_once(self: ConstrainedLearner, piece: Piece) -> Trial:
        calls.append(plain(self, piece))
        return replace(calls[-1], kl=1.0) if len(calls) == 2 else calls[-1]

    monkeypatch.setattr(ConstrainedLearner, "_try", too_far_once)
    moved = []
    for shrink, length in ((0.5, 1.0), (0.25, 4.0)):  # the second trials are 1/2 and 1/4 of the first ones
        calls.clear()
        with opened(runs.config(tmp_path, "trpo", dtype="float64"), shrink=shrink, cg_steps=2) as (run, piece, learner):
            before = flat([p.detach().clone() for p in trained(run.roles.policy)])
            learner.rule = replace(learner.rule, max_kl=1e-4 * length, critic_updates=0)
            assert learner.step(piece).values["trust/step"] == shrink
            moved.append(flat([p.detach() for p in trained(run.roles.policy)]) - before)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-9, atol=1e-12)


def test_without_advantages_nothing_moves_but_the_critic(tmp_path: Path) -> None:
    with opened(runs.config(tmp_path, "trpo")) as (run, piece, learner):
        assert piece.signal.advantage is not None
        flatland = replace(piece, signal=replace(piece.signal, advantage=torch.zeros_like(piece.signal.advantage)))
        policy, critic = (flat([p.detach().clone() for p in m.parameters()]) for m in run.modules.values())
        told = learner.step(flatland).values
        assert (told["trust/step"], told["trust/cg_residual"]) == (0, 0)
        assert torch.equal(flat([p.detach() for p in run.modules["policy"].parameters()]), policy)
        assert not torch.equal(flat([p.detach() for p in run.modules["critic"].parameters()]), critic)


@pytest.mark.parametrize("number", [0, 1, 5])
def test_the_critic_takes_as_many_steps_as_asked(number: int, tmp_path: Path) -> None:
    with opened(runs.config(tmp_path, "trpo"), critic_updates=number) as (run, piece, learner):
        learner.step(piece)
        steps = {int(state["step"]) for state in run.optimizer.state.values()}
        assert steps == ({number} if number else set())
        own = {id(p) for p in run.modules["critic"].parameters()}
        assert {id(p) for p in run.optimizer.state} <= own


@pytest.mark.slow
def test_a_preference_loss_can_take_constrained_steps(tmp_path: Path) -> None:
    (tmp_path / "natural.py").write_text(NATURAL, encoding="utf-8")
    loop.run(runs.config(tmp_path, "dpo", updates=6), f"{tmp_path / 'natural.py'}:natural_dpo", show="nothing")
    told = read(tmp_path / "run" / "events.jsonl")
    assert all(0 < float(one["trust/kl"]) <= 0.003 for one in told)
    assert told[-1]["loss"] < told[0]["loss"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"critic": None}, "trpo: a shared critic is a head on the weights that the constraint is about: .*critic own"),
        ({"critic": "shared"}, "trpo: a shared critic is a head"),
        ({"epochs": 2}, "trpo: one constrained step takes the whole batch: leave out epochs and mini_rows"),
        ({"mini_rows": 4}, "trpo: one constrained step takes the whole batch"),
    ],
)
def test_what_a_constrained_step_cannot_do_is_said_in_one_line(
    change: dict[str, object], why: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=why) as error:
        loop.run(runs.config(tmp_path, "trpo", **change), "trpo", show="nothing")
    assert len(str(error.value).splitlines()) == 1


def test_numbers_out_of_range_are_refused() -> None:
    for name, value in (("max_kl", 0.0), ("cg_steps", 0), ("backtracks", 0), ("damping", -1.0), ("shrink", 1.0)):
        with pytest.raises(InputError, match=name):
            build("trpo", **{name: value})
    with pytest.raises(InputError, match="kl_old = exact is a KL at each state: give ratio=token"):
        build("mirror_descent", kl_old="exact")


# ---------------------------------------------------------------------------------------------------------- resumed


def resumed(folder: Path, name: str, keywords: dict[str, object], config: RunConfig, monkeypatch, *, at: int) -> bool:
    """Kill after an update, resume, compare with the run that was not killed; whether an old policy was saved."""
    plain, again = loop.pause, replace(config, out=str(folder / f"killed-{at}"))

    def dying(run: object, place: object, stop: object) -> None:
        if place.update > at:  # type: ignore[attr-defined]
            raise Killed
        plain(run, place, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "pause", dying)
    with pytest.raises(Killed):
        loop.run(again, name, keywords=keywords, show="nothing")
    monkeypatch.setattr(loop, "pause", plain)
    held = (Path(again.out) / "checkpoints" / f"step-{at}" / "old.safetensors").exists()
    loop.resume(Path(again.out), show="nothing")
    same(Path(config.out), Path(again.out))
    return held


@pytest.mark.parametrize(
    ("at", "more"),
    [
        (3, {}),
        pytest.param(2, {}, marks=pytest.mark.slow),
        pytest.param(3, {"lora_rank": 2}, marks=pytest.mark.slow),
    ],
    ids=["whole", "between batches", "lora"],
)
def test_mirror_descent_resumed_within_a_batch_is_straight(
    at: int, more: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old policy of the batch in hand is part of the checkpoint: without it the KL would begin anew."""
    keywords: dict[str, object] = {"ratio": "token", "kl_old": "exact", "eta": 0.5}
    config = runs.config(tmp_path, "mirror_descent", updates=4, epochs=1, save_every=1, **more)
    loop.run(config, "mirror_descent", keywords=keywords, show="nothing")
    divergences = [float(one["terms/kl_old"]) for one in read(Path(config.out) / "events.jsonl")]
    assert [abs(d) < 1e-6 for d in divergences] == [i % 2 == 0 for i in range(4)]  # two updates a batch
    assert resumed(tmp_path, "mirror_descent", keywords, config, monkeypatch, at=at) == (at % 2 == 1)


@pytest.mark.parametrize("more", [{}, {"lora_rank": 2}], ids=["whole", "lora"])
@pytest.mark.slow
def test_constrained_steps_resumed_are_straight(
    more: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keywords: dict[str, object] = {"cg_steps": 2, "critic_updates": 2}
    config = runs.config(tmp_path, "trpo", updates=3, save_every=1, **more)
    loop.run(config, "trpo", keywords=keywords, show="nothing")
    assert not resumed(tmp_path, "trpo", keywords, config, monkeypatch, at=1)


# ---------------------------------------------------------------------------------------------------------- advice


def told(name: str, *, updates_per_batch: int | None, **keywords: object) -> list[str]:
    recipe = build(name, **keywords)
    found = advise(recipe, facts=Facts(updates_per_batch=updates_per_batch))
    return [f"{one.level} {one.part}" for one in found if "max_kl" in one.text or "π_old" in one.text]


def test_advice_on_bounds() -> None:
    exact = {"ratio": "token", "kl_old": "exact"}
    assert told("mirror_descent", updates_per_batch=1, **exact) == ["note kl_old: Identity with one update a batch"]
    assert told("mirror_descent", updates_per_batch=1) == ["note policy: Mirror with one update a batch"]
    for number in (4, None):
        assert not told("mirror_descent", updates_per_batch=number, **exact)
    assert told("trpo", updates_per_batch=1) == ["note ConstrainedStep"]
    assert not told("ppo", updates_per_batch=1)
