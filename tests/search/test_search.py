"""Searches on an enumerated tree whose best text is known, and on language models against plain forwards."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from tests.tiny import BOS, EOS, PAD, VOCABULARY, llama, tiny
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.lab.worlds.tree import grow
from tokenward.models.load import scorer
from tokenward.search.beam import beam_search
from tokenward.search.best_of_n import best_of_n, kl_bound, sample
from tokenward.search.language import LanguageProblem
from tokenward.search.problem import Moves

END, WORDS, HORIZON = 0, 3, 4
NO_REF = "compares with a reference; give --ref"


class Tree:
    """Random conditional laws for every prefix; token 0 ends a text, and so does the horizon."""

    def __init__(self, *, seed: int = 0, reference: bool = True):
        random = torch.Generator().manual_seed(seed)
        prefixes = [p for n in range(HORIZON) for p in itertools.product(range(1, WORDS), repeat=n)]
        ending = torch.tensor([-1.5, 0.0, 0.0], dtype=torch.float64)  # rare, or the most likely text is the empty one
        draw = lambda: 2 * torch.randn(2, WORDS, generator=random, dtype=torch.float64) + ending
        self.law = {p: draw().log_softmax(-1) for p in prefixes}
        self.reference = reference

    def root(self, prompt):
        return (prompt, ())

    def expand(self, states):
        rows = torch.stack([self.law[tokens] for _, tokens in states])
        ref = rows[:, 1] if self.reference else None
        return Moves(torch.arange(WORDS).expand(len(states), WORDS), rows[:, 0], ref, forwarded=len(states))

    def child(self, state, token):
        return (state[0], (*state[1], token))

    def terminal(self, state):
        return len(state[1]) == HORIZON or state[1][-1:] == (END,)

    def score(self, states):
        return [float(sum(tokens)) for _, tokens in states]

    def leaves(self):
        """{text: (Σ log π, Σ log π_ref)} by walking the whole tree."""
        found, open_texts = {}, [((), (0.0, 0.0))]
        while open_texts:
            text, sums = open_texts.pop()
            for token in range(WORDS):
                longer = (*text, token)
                both = tuple(s + float(x) for s, x in zip(sums, self.law[text][:, token], strict=True))
                if self.terminal((0, longer)):
                    found[longer] = both
                else:
                    open_texts.append((longer, both))
        return found


@pytest.fixture(params=range(5))
def tree(request):
    return Tree(seed=request.param)


def test_an_exhaustive_beam_finds_the_most_likely_text(tree):
    leaves = tree.leaves()
    best = max(leaves, key=lambda text: leaves[text][0])
    (found,) = beam_search(tree, ["p"], width=len(leaves)).found
    assert found.path.tokens == best
    assert found.score == pytest.approx(leaves[best][0], abs=1e-12)
    assert found.path.ref_logp == pytest.approx(leaves[best][1], abs=1e-12)


def test_an_exhaustive_beam_finds_the_largest_implicit_reward(tree):
    leaves = tree.leaves()
    worth = {text: 0.3 * (p - r) for text, (p, r) in leaves.items()}
    answer = beam_search(tree, ["p"], width=len(leaves), by="implicit", beta=0.3)
    assert answer.found[0].score == pytest.approx(max(worth.values()), abs=1e-12)
    assert {path.tokens: pytest.approx(s, abs=1e-12) for path, s in answer.found[0].compared} == worth


def test_an_exhaustive_beam_finds_the_best_mean_per_token(tree):
    leaves = tree.leaves()
    best = max(leaves, key=lambda text: leaves[text][0] / len(text))
    assert beam_search(tree, ["p"], width=len(leaves), length="mean").found[0].path.tokens == best


@pytest.mark.parametrize("by", ["likelihood", "implicit"])
def test_a_beam_of_one_is_greedy(tree, by):
    text = ()
    while not text or not tree.terminal((0, text)):
        policy, ref = tree.law[text]
        text = (*text, int((policy if by == "likelihood" else policy - ref).argmax()))
    assert beam_search(tree, ["p"], width=1, by=by).found[0].path.tokens == text


def test_the_widest_beam_is_never_worse_and_costs_more(tree):
    answers = [beam_search(tree, ["p"], width=w, by="implicit") for w in (1, 30)]
    assert answers[0].found[0].score <= answers[1].found[0].score
    assert answers[0].forwarded <= HORIZON < answers[1].forwarded == len(tree.law)  # every prefix is read once


def test_prompts_are_searched_independently(tree):
    together = beam_search(tree, ["a", "b"], width=3)
    assert [found.path.tokens for found in together.found] == [
        beam_search(tree, [p], width=3).found[0].path.tokens for p in ("a", "b")
    ]
    assert together.found[1].path.state[0] == "b"


def test_the_bound_does_not_cut_a_text_that_could_still_win():
    """The end token takes .4 at once; going on costs less in the end: 1·log .6 > log .4."""
    tree = Tree()
    sure = torch.tensor([-30.0, -0.0, -30.0], dtype=torch.float64)
    tree.law = {p: torch.stack([sure, sure]) for p in tree.law}
    tree.law[()] = torch.log(torch.tensor([[0.4, 0.6, 1e-9]] * 2, dtype=torch.float64))
    assert beam_search(tree, ["p"], width=2).found[0].path.tokens == (1, 1, 1, 1)


def test_samples_follow_the_law_of_the_tree():
    tree = Tree(seed=1)
    leaves = tree.leaves()
    paths, forwarded = sample(tree, ["p"] * 4000, n=4000, seed=3)
    counts = {text: sum(path.tokens == text for path in paths) / 4000 for text in leaves}
    for text, (logp, _) in leaves.items():
        p = math.exp(logp)
        assert abs(counts[text] - p) < 4.5 * math.sqrt(p * (1 - p) / 4000) + 1e-4
    assert all(path.logp == pytest.approx(leaves[path.tokens][0], abs=1e-9) for path in paths[:50])
    assert forwarded < 4000 * HORIZON  # the root is read once


def test_best_of_n_takes_the_best_by_its_own_criterion(tree):
    leaves = tree.leaves()
    by_reward = best_of_n(tree, ["p", "q"], n=16, seed=1)
    for found in by_reward.found:
        assert len(found.compared) == 16
        assert found.score == max(float(sum(path.tokens)) for path, _ in found.compared) == sum(found.path.tokens)
    implicit = best_of_n(tree, ["p", "q"], n=16, seed=1, by="implicit", beta=2.0)
    for found, other in zip(implicit.found, by_reward.found, strict=True):
        texts = {path.tokens for path, _ in found.compared}
        assert texts == {path.tokens for path, _ in other.compared}
        assert found.score == pytest.approx(max(2.0 * (leaves[t][0] - leaves[t][1]) for t in texts))


def test_one_of_one_is_a_plain_sample(tree):
    paths, _ = sample(tree, ["p"], seed=5)
    assert best_of_n(tree, ["p"], n=1, seed=5).found[0].path == paths[0]


def test_the_kl_of_best_of_n_is_below_its_bound():
    """Exact law p_≤ⁿ − p_<ⁿ on five texts of distinct reward; the bound log n − (n−1)/n is for n = 1 an equality."""
    p = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15], dtype=torch.float64)
    upto = p.cumsum(0)
    for n in (1, 2, 4, 16):
        best = upto**n - (upto - p) ** n
        assert float((best * (best / p).log()).sum()) <= kl_bound(n) + 1e-12
    assert kl_bound(1) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: beam_search(t, ["p"], width=0), "beam width must be 1 or more, got 0"),
        (lambda t: beam_search(t, ["p"], width=2, by="implicit"), NO_REF),
        (lambda t: best_of_n(t, ["p"], n=0), "best of n needs n of 1 or more, got 0"),
        (lambda t: best_of_n(t, ["p"], n=2, by="implicit"), NO_REF),
    ],
)
def test_what_cannot_be_searched_is_said(call, message):
    with pytest.raises(InputError, match=message):
        call(Tree(reference=False))


# --- the lab's tree ----------------------------------------------------------------------------------------------


class Lab:
    """A prompt of a lab tree under a policy's and a reference's law; states are ("at", s) and ("leaf", l)."""

    def __init__(self, tree, policy, reference):
        self.tree = tree
        self.policy, self.reference = (tree.conditional(law)[0] for law in (policy, reference))

    def root(self, prompt):
        return ("at", 0)

    def expand(self, states):
        rows = torch.tensor([number for _, number in states])
        tokens = torch.arange(self.tree.vocab).expand(len(states), self.tree.vocab)
        return Moves(tokens, self.policy[rows], self.reference[rows], forwarded=len(states))

    def child(self, state, token):
        leaf = int(self.tree.leaf[state[1], token])
        return ("leaf", leaf) if leaf >= 0 else ("at", int(self.tree.child[state[1], token]))

    def terminal(self, state):
        return state[0] == "leaf"

    def score(self, states):
        return [0.0 for _ in states]


@pytest.mark.parametrize("seed", range(3))
def test_beams_on_the_lab_tree_of_the_boltzmann_policy(seed):
    """π^τ ∝ π_ref·exp(r/τ): the widest beam finds argmax r + τ log π_ref by likelihood, argmax r by implicit reward.

    Likelihood search is value-guided search for the conservative reward (Rafailov et al. 2024, §4.3).
    """
    tau, tree = 0.5, grow(vocab=3, horizon=3, eos=0)
    random = torch.Generator().manual_seed(seed)
    reward, noise = torch.randn(2, 1, tree.leaves, generator=random, dtype=torch.float64)
    reference = (2 * noise).softmax(-1)
    optimum = (reference.log() + reward / tau).softmax(-1)
    lab = Lab(tree, optimum, reference)
    (likely,) = beam_search(lab, ["p"], width=tree.leaves).found
    (best,) = beam_search(lab, ["p"], width=tree.leaves, by="implicit", beta=tau).found
    assert likely.path.state == ("leaf", int((reward + tau * reference.log()).argmax()))
    assert best.path.state == ("leaf", int(reward.argmax()))
    log_z = float((reference * (reward / tau).exp()).sum().log())
    assert best.score == pytest.approx(float(reward.max()) - tau * log_z, abs=1e-9)  # r − τ log Z: the implicit reward


# --- language models ---------------------------------------------------------------------------------------------

PROMPTS = [Prompt(0, (BOS, 5, 9), "a"), Prompt(1, (BOS, 7), "b"), Prompt(2, (BOS, 3, 4, 5, 6), "c")]


def language(policy=None, **settings):
    settings = {"end_ids": [EOS], "pad_id": PAD, "max_new_tokens": 6, "reference": tiny(seed=1), **settings}
    return LanguageProblem(policy or tiny(), **settings)


def plain_logp(model, prompt, tokens):
    """Σ log π by one forward over the whole text."""
    ids = torch.tensor([[*prompt.tokens, *tokens]])
    with torch.no_grad():
        law = model.causal_lm(input_ids=ids).logits.log_softmax(-1)
    start = len(prompt.tokens)
    return sum(float(law[0, start + i - 1, token]) for i, token in enumerate(tokens))


def sliding(seed=0):
    torch.manual_seed(seed)
    config = MistralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=3, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return scorer(MistralForCausalLM(config).eval())


@pytest.mark.parametrize("model", [tiny, sliding])
@pytest.mark.parametrize("rows", [2, 64])
def test_remembered_prefixes_give_the_log_probabilities_of_plain_forwards(model, rows):
    policy, reference = model(seed=0), tiny(seed=1)
    problem = language(policy, reference=reference, rows=rows)
    answer = beam_search(problem, PROMPTS, width=3)
    sampled, _ = sample(problem, [p for p in PROMPTS for _ in range(4)], n=4, seed=1)
    paths = [path for found in answer.found for path, _ in found.compared] + sampled
    assert len({len(path.tokens) for path in paths}) > 1
    for path in paths:
        assert path.logp == pytest.approx(plain_logp(policy, path.state.prompt, path.tokens), abs=1e-4)
        assert path.ref_logp == pytest.approx(plain_logp(reference, path.state.prompt, path.tokens), abs=1e-4)


def test_beam_one_is_greedy_generation():
    policy = tiny()
    for found, prompt in zip(beam_search(language(policy), PROMPTS, width=1).found, PROMPTS, strict=True):
        ids = torch.tensor([prompt.tokens])
        out = policy.causal_lm.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
        assert list(found.path.tokens) == out[0, len(prompt.tokens) :].tolist()


def test_an_exhaustive_beam_of_a_language_model_is_its_most_likely_text():
    policy = tiny(vocabulary=6)
    problem = language(policy, reference=None, max_new_tokens=3)
    prompt = Prompt(0, (BOS, 5), "a")
    texts = [t for n in (1, 2, 3) for t in itertools.product(range(6), repeat=n)]
    texts = [t for t in texts if EOS not in t[:-1] and (t[-1] == EOS or len(t) == 3)]
    best = max(texts, key=lambda t: plain_logp(policy, prompt, t))
    assert beam_search(problem, [prompt], width=300).found[0].path.tokens == best


def test_every_token_is_read_once_and_counted_for_both_models():
    problem = language(max_new_tokens=3, end_ids=[])
    paths, forwarded = sample(problem, [PROMPTS[0]] * 5, n=5)
    assert all(len(path.tokens) == 3 for path in paths)
    distinct = len({path.tokens[:1] for path in paths})  # five copies of the root are one
    assert distinct <= 5
    assert forwarded == 2 * (3 + 5 + 5)


def test_a_sliding_window_is_read_again_and_counted():
    problem = language(sliding(), reference=None, max_new_tokens=3, end_ids=[])
    assert sample(problem, [PROMPTS[0]])[1] == 3 + 4 + 5


def test_branch_offers_the_likeliest_tokens_alone():
    full = language().expand([language().root(PROMPTS[0])])
    few = language(branch=4).expand([language().root(PROMPTS[0])])
    index = full.logp[0].argsort(descending=True)[:4]
    assert few.tokens[0].tolist() == index.tolist()
    assert torch.equal(few.logp[0], full.logp[0][index]) and torch.equal(few.ref_logp[0], full.ref_logp[0][index])


class Longest:
    def score(self, rollouts, prompts):
        from dataclasses import replace

        return [replace(r, score=float(len(r.response_tokens) + prompts[r.prompt_id].id)) for r in rollouts]


def test_a_reward_reads_finished_texts():
    found = best_of_n(language(reward=Longest()), PROMPTS, n=8, seed=2).found
    assert [f.score for f in found] == [max(len(p.tokens) for p, _ in f.compared) + i for i, f in enumerate(found)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: language(max_new_tokens=0), "max_new_tokens must be 1 or more, got 0"),
        (lambda: language(branch=0), "branch must be 1 or more, got 0"),
        (
            lambda: language(max_new_tokens=62).root(PROMPTS[0]),
            "prompt 0 has 3 tokens; .* beyond the context of 64 tokens, the shortest of the models",
        ),
        (
            lambda: language(reference=scorer(llama(context=8))).root(PROMPTS[0]),
            "prompt 0 has 3 tokens; .* beyond the context of 8 tokens, the shortest of the models",
        ),
        (
            lambda: language(reference=tiny(vocabulary=44)),
            "has 40 tokens and the reference 44: they must share a vocab",
        ),
        (lambda: language(critic=tiny(vocabulary=39, value_head=True)), "writes 40 tokens and the critic reads 39"),
        (lambda: language().root(Prompt(4, (), "")), "prompt 4 has no tokens"),
        (lambda: best_of_n(language(), PROMPTS, n=2), "this search has no reward; give --reward"),
        (lambda: beam_search(language(reference=None), PROMPTS, width=2, by="implicit"), NO_REF),
    ],
)
def test_what_a_language_search_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_finished_text_has_no_next_token():
    problem = language(max_new_tokens=1)
    paths, _ = sample(problem, [PROMPTS[0]])
    with pytest.raises(InputError, match="1 states are finished texts"):
        problem.expand([paths[0].state])
