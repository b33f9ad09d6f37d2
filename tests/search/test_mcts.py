"""Tree search: by hand, on trees whose best text is known, over spans, in batches, on language models with a cache."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.search.test_search import PROMPTS, language, plain_logp
from tests.tiny import tiny
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.lab.worlds.tree import grow
from tokenward.search import leaves as leaf_values
from tokenward.search import moves as span_moves
from tokenward.search.beam import beam_search
from tokenward.search.best_of_n import best_of_n
from tokenward.search.budget import Budget, Meter
from tokenward.search.guided import guided
from tokenward.search.language import LanguageProblem
from tokenward.search.leaves import Leaf, worth
from tokenward.search.mcts import Node, Tree, tree_search
from tokenward.search.moves import Spans
from tokenward.search.problem import Path
from tokenward.search.tree import TreeProblem, leaf_of

EACH = 16


def world(*, vocab=3, horizon=4, eos=0, seed=0, wrong=0.0):
    """(problem, rewards): 16 trees; `value` is the best reward below each state, the prior random, or against it."""
    tree, random = grow(vocab=vocab, horizon=horizon, eos=eos), torch.Generator().manual_seed(seed)
    reward, logits = torch.randn(2, EACH, tree.leaves, generator=random, dtype=torch.float64)
    best = torch.zeros(EACH, tree.states, vocab, dtype=torch.float64)
    for level in reversed(tree.levels):
        for state in level.tolist():
            for token in range(vocab):
                leaf, child = int(tree.leaf[state, token]), int(tree.child[state, token])
                best[:, state, token] = reward[:, leaf] if leaf >= 0 else best[:, child].amax(-1)
    logp = tree.conditional(logits.softmax(-1)) - wrong * best
    return TreeProblem(tree, logp.log_softmax(-1), reward=reward, value=best.amax(-1)), reward


def found(answer):
    return [leaf_of(one.path.state) for one in answer.found]


@pytest.mark.parametrize("wrong", [0.0, 2.0], ids=["any prior", "a prior against the reward"])
@pytest.mark.parametrize("leaves", [1, 4])
def test_it_finds_the_best_text_where_values_are_exact(wrong, leaves):
    problem, reward = world(wrong=wrong)
    answer = tree_search(problem, list(range(6)), simulations=200, values="critic", backup="max", leaves=leaves)
    assert found(answer) == reward[:6].argmax(-1).tolist()
    assert [one.score for one in answer.found] == pytest.approx(reward[:6].amax(-1).tolist())


@pytest.mark.slow
def test_means_find_it_too_with_more_simulations():
    """A mean is diluted by what was tried below a move: the same trees need about five times as many visits."""
    problem, reward = world()
    few, many = (
        tree_search(problem, list(range(4)), simulations=simulations, values="critic", c=1.0, leaves=1)
        for simulations in (100, 1000)
    )
    assert found(many) == reward[:4].argmax(-1).tolist() != found(few)


def test_few_simulations_follow_the_prior_and_more_find_more():
    problem, reward = world(wrong=2.0)
    greedy = beam_search(TreeProblem(problem.tree, problem.logp), list(range(EACH)), width=1)
    scores = []
    for simulations in (1, 3, 50):
        answer = tree_search(
            problem, list(range(EACH)), simulations=simulations, values="critic", leaves=1, backup="max", c=0.2
        )
        if simulations == 1:
            assert found(answer) == found(greedy)
        scores.append(float(reward.gather(1, torch.tensor(found(answer))[:, None]).mean()))
    assert scores[0] < scores[1] < scores[2] == pytest.approx(float(reward.amax(-1).mean()))


@pytest.mark.parametrize("backup", ["mean", "max"])
def test_without_values_rollouts_and_the_best_text_met_find_it(backup):
    problem, reward = world(seed=1)
    bare = TreeProblem(problem.tree, problem.logp, reward=reward)
    answer = tree_search(
        bare, list(range(EACH)), simulations=200, values="rollout", take="best", backup=backup, c=2.0, seed=4
    )
    hit = np.mean(np.array(found(answer)) == reward.argmax(-1).numpy())
    sampled = best_of_n(bare, list(range(EACH)), n=10, seed=4)
    assert hit > 0.7 > np.mean(np.array(found(sampled)) == reward.argmax(-1).numpy())


def test_every_round_of_rollouts_draws_anew_and_a_seed_repeats_them():
    problem, _ = world()
    rounds = []
    for seed in (3, 3, 4):
        how, seen = Leaf(values="rollout", ends="score", beta=1.0, seed=seed), []
        for _ in range(12):
            node = Node(Path(problem.root(0)), ended=False)
            worth(problem, [(node, None)], None, how, Meter(Budget()))
            seen.append(node.value)
        rounds.append(seen)
    assert len(set(rounds[0])) > 3 and rounds[0] == rounds[1] != rounds[2]


def test_without_a_score_an_end_is_worth_what_the_critic_said_before_it():
    problem, _ = world()
    parent, end = Node(Path(problem.root(0)), ended=False, value=0.7), Node(Path((0, -1)), ended=True)
    worth(problem, [(end, parent)], None, Leaf(values="critic", ends="critic", beta=1.0, seed=0), Meter(Budget()))
    assert end.value == 0.7


def test_by_implicit_reward_it_finds_the_largest_log_ratio():
    tree, random = grow(vocab=3, horizon=3, eos=None), torch.Generator().manual_seed(5)
    laws = torch.randn(2, EACH, tree.leaves, generator=random, dtype=torch.float64).softmax(-1)
    logp, ref = tree.conditional(laws[0]), tree.conditional(laws[1])
    worth = 0.7 * (laws[0].log() - laws[1].log())
    answer = tree_search(
        TreeProblem(tree, logp, ref),
        list(range(EACH)),
        simulations=200,
        values="implicit",
        beta=0.7,
        c=4.0,
        take="best",
    )
    assert np.mean(np.array(found(answer)) == worth.argmax(-1).numpy()) > 0.95
    for one, row in zip(answer.found, worth, strict=True):
        assert one.score == pytest.approx(float(row[leaf_of(one.path.state)]), abs=1e-9)
        assert all(score == pytest.approx(float(row[leaf_of(path.state)])) for path, score in one.compared)


def test_the_rule_by_hand():
    """Two moves of prior .8 and .2, values 1 and 3 behind them: scores after each visit, worked out on paper."""
    tree = grow(vocab=2, horizon=1, eos=None)
    problem = TreeProblem(
        tree, torch.tensor([[[0.8, 0.2]]]).double().log(), reward=torch.tensor([[1.0, 3.0]]).double(),
        value=torch.tensor([[2.0]]).double(),
    )  # fmt: skip
    search = Tree(problem, 0, c=4.0, backup="mean")
    moves = problem.expand([search.here.path.state])
    search.here.open(moves, 0)
    search.here.value = 2.0
    search.back_up([], search.here)
    taken = []
    for _ in range(6):
        trail, leaf = search.descend()
        leaf.value = float(problem.score([leaf.path.state])[0])
        search.back_up(trail, leaf)
        taken.append(trail[0][1])
    # 1: only the root's 2 is known, Q̄ = 0 for both, U = 3.2, .8 → 0 · 2: range [1, 2], an untried move has Q̄ = 1:
    # 3.2√2/2 = 2.26 against 1 + .8√2 = 2.13 → 0 · 3: 3.2√3/3 = 1.85, 1 + .8√3 = 2.39 → 1 · 4: range [1, 3],
    # 3.2·2/3 = 2.13, 1 + .8·2/2 = 1.80 → 0 · 5: 3.2√5/4 = 1.79, 1 + .8√5/2 = 1.89 → 1 · 6: 1.96, 1.65 → 0
    assert taken == [0, 0, 1, 0, 1, 0]
    assert search.here.visits.tolist() == [4, 2] and search.here.total.tolist() == [4, 6]
    assert search.here.waiting.tolist() == [0, 0]


def test_a_waiting_leaf_counts_as_a_visit_of_the_least_value():
    problem, _ = world()
    problem = TreeProblem(problem.tree, torch.zeros_like(problem.logp).log_softmax(-1))
    search = Tree(problem, 0, c=1.0, backup="mean")
    search.here.open(problem.expand([search.here.path.state]), 0)
    search.here.value = 0.0
    firsts = []
    for _ in range(3):
        trail, leaf = search.descend()
        firsts.append(trail[0][1])
        assert leaf.logp is None
    assert len(set(firsts)) == 3 and search.here.waiting.tolist() == [1, 1, 1]


def test_prompts_in_step_are_searched_as_if_alone_and_twice_the_same():
    problem, _ = world(seed=2)
    settings = {"simulations": 20, "values": "critic", "leaves": 3}
    together = tree_search(problem, list(range(6)), **settings)
    again = tree_search(problem, list(range(6)), **settings)
    alone = [tree_search(problem, [prompt], **settings) for prompt in range(6)]
    assert found(together) == found(again) == [found(one)[0] for one in alone]
    assert together.forwarded == again.forwarded == sum(one.forwarded for one in alone)


def test_a_budget_ends_the_search_and_the_text_is_finished_greedily():
    problem, _ = world(seed=3)
    free = tree_search(problem, [0, 1, 2], simulations=100, values="critic")
    little = tree_search(problem, [0, 1, 2], simulations=100, values="critic", budget=Budget(tokens=20))
    assert all(problem.terminal(one.path.state) for one in little.found)
    assert little.forwarded < free.forwarded
    assert little.forwarded <= 20 + 3 * 4 * 2 + 3 * 4 * 2  # one round of leaves, then one text: policy and critic
    one_step = tree_search(problem, [0], simulations=10**6, values="critic", budget=Budget(seconds=0.05))
    assert problem.terminal(one_step.found[0].path.state)


# --- spans -----------------------------------------------------------------------------------------------------------


def test_spans_end_at_their_tokens_and_carry_the_sums_of_their_tokens():
    problem, _ = world(vocab=3, horizon=5, eos=None, seed=6)
    plain = TreeProblem(problem.tree, problem.logp, problem.logp - 0.3)
    spans = Spans(plain, ends=frozenset({1}), count=6, most=3, seed=1)
    roots = [spans.root(prompt) for prompt in range(4)]
    moves = spans.expand(roots)
    for row, root in enumerate(roots):
        seen = set()
        for number in range(int((moves.logp[row] > -math.inf).sum())):
            state = spans.child(root, number)
            tokens = state.path.tokens
            seen.add(tokens)
            assert 1 not in tokens[:-1] and (tokens[-1] == 1 or len(tokens) == 3)
            node, total = 0, 0.0
            for token in tokens:
                total += float(problem.logp[row, node, token])
                node = int(problem.tree.child[node, token])
            assert float(moves.logp[row, number]) == pytest.approx(total) == pytest.approx(state.path.logp)
            assert float(moves.ref_logp[row, number]) == pytest.approx(total - 0.3 * len(tokens))
        assert len(seen) == int((moves.logp[row] > -math.inf).sum())  # no span twice


def before_the_last_token(problem, state):
    (prompt, _), node = state.path.state, 0
    for token in state.path.tokens[:-1]:
        node = int(problem.tree.child[node, token])
    return float(problem.value[prompt, node])


@pytest.mark.parametrize("ends", [(), (1,)], ids=["whole texts", "sentences"])
def test_without_a_score_a_text_in_spans_is_worth_what_the_critic_said_before_its_last_token(ends):
    problem, _ = world(seed=3)
    spans = Spans(problem, ends=frozenset(ends), count=20, seed=1)
    answer = tree_search(spans, list(range(6)), simulations=20, values="critic", ends="critic", take="best")
    for one in answer.found:
        wanted = [before_the_last_token(problem, path.state) for path, _ in one.compared]
        assert [score for _, score in one.compared] == wanted
        assert one.score == max(wanted) and len(set(wanted)) > 2


def test_guidance_over_spans_tells_their_ends_apart():
    problem, _ = world(seed=3)
    words = {"ends": frozenset(), "count": 20, "seed": 1}
    (found,) = guided(Spans(problem, **words), [0], by="critic", take="rerank", ends="critic").found
    spans = Spans(problem, **words)
    root = spans.root(0)
    offered = [spans.child(root, number) for number in range(spans.expand([root]).logp.shape[1])]
    values = [before_the_last_token(problem, state) for state in offered]
    assert before_the_last_token(problem, found.path.state) == max(values) and len(set(values)) > 2


def test_spans_are_drawn_anew_when_asked_again_and_their_values_are_the_states():
    problem, _ = world(vocab=3, horizon=3, eos=None, seed=7)
    spans = Spans(problem, ends=frozenset(), count=1, most=2)
    drawn = set()
    for _ in range(12):
        state = spans.root(0)
        assert float(spans.expand([state]).value) == float(problem.value[0, 0])
        drawn.add(spans.child(state, 0).path.tokens)
    assert len(drawn) > 3


def test_spans_and_rollouts_draw_from_streams_of_their_own(monkeypatch):
    seeds = {"spans": [], "rollouts": []}

    def noted(name, draw):
        return lambda *words, seed, **more: (seeds[name].append(seed), draw(*words, seed=seed, **more))[1]

    for name, module in (("spans", span_moves), ("rollouts", leaf_values)):
        monkeypatch.setattr(module, "sample", noted(name, module.sample))
    problem, _ = world(vocab=2, horizon=4, eos=None)
    tree_search(Spans(problem, ends=frozenset({1}), count=2, seed=5), [0], simulations=9, values="rollout", seed=5)
    every = seeds["spans"] + seeds["rollouts"]
    assert min(map(len, seeds.values())) > 3 and len(set(every)) == len(every)


def test_tree_search_over_spans_finds_the_best_text():
    problem, reward = world(vocab=2, horizon=4, eos=None, seed=8)
    spans = Spans(problem, ends=frozenset({1}), count=24)
    answer = tree_search(spans, list(range(6)), simulations=100, values="critic", backup="max", c=0.4)
    leaves = [leaf_of(one.path.state.path.state) for one in answer.found]
    assert leaves == reward[:6].argmax(-1).tolist()
    rolled = tree_search(spans, list(range(8)), simulations=30, values="rollout", seed=1)
    assert all(problem.terminal(one.path.state.path.state) for one in rolled.found)


# --- language models -------------------------------------------------------------------------------------------------


class Length:
    def score(self, rollouts, prompts):
        from dataclasses import replace

        return [replace(r, score=float(len(set(r.response_tokens)))) for r in rollouts]


@pytest.mark.parametrize("values", ["critic", "implicit", "rollout"])
def test_a_language_model_remembers_along_branches(values):
    """Log-probabilities of every text met equal plain forwards, though branches are revisited in any order."""
    policy, reference, critic = tiny(), tiny(seed=1), tiny(seed=2, value_head=True)
    problem = language(policy, reference=reference, critic=critic, reward=Length(), branch=3, max_new_tokens=5)
    answer = tree_search(problem, PROMPTS, simulations=12, values=values, c=2.0, leaves=3)
    paths = [path for one in answer.found for path, _ in one.compared]
    assert len(paths) > 6
    for path in paths:
        assert path.logp == pytest.approx(plain_logp(policy, path.state.prompt, path.tokens), abs=1e-4)
        assert path.ref_logp == pytest.approx(plain_logp(reference, path.state.prompt, path.tokens), abs=1e-4)


def test_every_simulation_reads_one_token_of_each_model():
    policy, critic = tiny(), tiny(seed=2, value_head=True)
    problem = language(policy, reference=None, critic=critic, branch=4, max_new_tokens=4, end_ids=[])
    answer = tree_search(problem, [PROMPTS[1]], simulations=6, values="critic", ends="critic", leaves=1)
    met = 2 * len(PROMPTS[1].tokens)
    assert answer.forwarded - met == 2 * 10  # ten states beside the root, each read once


@pytest.mark.parametrize("shared", [False, True], ids=["own critic", "shared head"])
def test_values_are_the_critics_own(shared):
    policy = tiny(value_head=True)
    critic = policy if shared else tiny(seed=5, value_head=True)
    problem = LanguageProblem(policy, critic=critic, end_ids=[1], pad_id=0, max_new_tokens=6)
    state = problem.root(PROMPTS[0])
    first = problem.expand([state])
    later = problem.child(state, 7)
    second = problem.expand([later, problem.root(PROMPTS[1])])
    for value, tokens in ((first.value[0], (2, 5, 9)), (second.value[0], (2, 5, 9, 7)), (second.value[1], (2, 7))):
        hidden = critic.backbone(input_ids=torch.tensor([tokens])).last_hidden_state[0, -1]
        assert float(value) == pytest.approx(critic.value_head(hidden).item(), abs=1e-5)
    assert second.forwarded == (1 if shared else 2) * 3


@pytest.mark.parametrize("own", [False, True], ids=["two models", "one model"])
def test_a_critic_that_is_the_reference_is_read_once_in_every_chunk(own):
    critic, policy = tiny(seed=5, value_head=True), tiny(seed=4)
    policy = critic if own else policy
    words = {"end_ids": [1], "pad_id": 0, "max_new_tokens": 6}
    one = LanguageProblem(policy, reference=critic, critic=critic, rows=1, **words)
    two = LanguageProblem(policy, reference=tiny(seed=5), critic=tiny(seed=5, value_head=True), rows=1, **words)
    three = [Prompt(i, tokens, "") for i, tokens in enumerate([(2, 5, 9), (2, 7), (2, 8, 3, 4)])]
    found, wanted = (problem.expand([problem.root(prompt) for prompt in three]) for problem in (one, two))
    assert found.value.tolist() == pytest.approx(wanted.value.tolist(), abs=1e-6) and len(found.value) == 3
    assert torch.allclose(found.ref_logp, wanted.ref_logp) and found.forwarded == 2 * 9 < wanted.forwarded


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: tree_search(p, [0], simulations=0, values="critic"), "simulations and leaves of 1 or more"),
        (lambda p: tree_search(p, [0], simulations=2, values="critic", c=-1.0), "c of 0 or more, got 2, 4 and -1.0"),
        (
            lambda p: tree_search(p, [0], simulations=2, values="critic", c=math.inf),
            "a finite c of 0 or more, got 2, 4",
        ),
        (lambda p: tree_search(TreeProblem(p.tree, p.logp), [0], simulations=3, values="critic"), "give --critic"),
        (lambda p: tree_search(p, [0], simulations=3, values="implicit"), "compares with a reference; give --ref"),
        (lambda p: tree_search(p, [0], simulations=3, values="rollout", ends="critic"), "rollouts end in texts"),
        (lambda p: tree_search(TreeProblem(p.tree, p.logp), [0], simulations=3, values="rollout"), "no reward"),
        (lambda p: guided(p, [0], by="critic", eta=math.inf), "a finite eta above 0 and top of 1 or more, got inf"),
        (lambda p: Budget(tokens=0), "a budget's tokens must be above 0, got 0"),
        (lambda p: Spans(p, ends=frozenset(), count=0), "count and most must be 1 or more, got 0 and 32"),
        (lambda p: language(critic=tiny()), "the critic has no value head"),
    ],
)
def test_what_cannot_be_searched_is_said(call, message):
    with pytest.raises(InputError, match=message):
        call(world()[0])


def test_a_prompt_longer_than_the_context_is_refused():
    with pytest.raises(InputError, match="beyond the context of 64 tokens"):
        tree_search(language(max_new_tokens=62), [Prompt(0, (2, 5, 9), "a")], simulations=2, values="implicit")


def test_a_text_of_several_spans_carries_all_its_sums():
    problem, _ = world(vocab=2, horizon=4, eos=None, seed=9)
    spans, several = Spans(problem, ends=frozenset({1}), count=9), 0
    state = spans.root(0)
    while not spans.terminal(state):
        moves = spans.expand([state])
        after = [spans.child(state, number) for number in range(int((moves.logp[0] > -math.inf).sum()))]
        state, several = min(after, key=lambda one: len(one.path.tokens)), several + 1
    node, total = 0, 0.0
    for token in state.path.tokens:
        total += float(problem.logp[0, node, token])
        node = int(problem.tree.child[node, token])
    assert several > 1 and len(state.path.tokens) == 4 and state.path.logp == pytest.approx(total)
