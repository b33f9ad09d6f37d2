"""Beams against transformers' own, combined laws, guidance, votes and budgets; and the flags of `tokenward sample`."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from tests import runs
from tests.search.test_search import PROMPTS, Tree, language
from tests.tiny import EOS, PAD, VOCABULARY, saved, tiny, word_tokenizer
from tokenward.cli import main
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError, RunError
from tokenward.lab.worlds.tree import grow
from tokenward.models import load
from tokenward.models.save import save_policy, save_reward_model
from tokenward.models.value_head import save_value_head, value_model
from tokenward.search.answers import answers
from tokenward.search.beam import beam_search
from tokenward.search.best_of_n import best_of_n, draws, sample
from tokenward.search.budget import Budget
from tokenward.search.combined import Combined, combined_law
from tokenward.search.guided import guided
from tokenward.search.mcts import tree_search
from tokenward.search.problem import Path
from tokenward.search.strategies import Asked
from tokenward.search.tree import TreeProblem, leaf_of
from tokenward.search.vote import by_answer, by_pattern, elected, weighted_vote

# --- the same beams as transformers' generate -----------------------------------------------------------------------


def generated(policy, prompt, *, width, length_penalty, most=7):
    ids = torch.tensor([prompt.tokens])
    out = policy.causal_lm.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, num_beams=width, do_sample=False,
        early_stopping="never", length_penalty=length_penalty, eos_token_id=EOS, pad_token_id=PAD,
    )  # fmt: skip
    found = out[0, len(prompt.tokens) :].tolist()
    return found[: found.index(EOS) + 1] if EOS in found else found


def eager(seed):
    """A tiny model that ends texts often enough for beams to differ."""
    policy = tiny(seed=seed)
    with torch.no_grad():
        policy.lm_head.weight[EOS] *= 2.5
    return policy


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize(("length", "penalty"), [("sum", 0.0), ("mean", 1.0)])
def test_a_refilled_beam_is_transformers_beam_search(width, length, penalty):
    compared = 0
    for seed in range(6):
        policy = eager(seed)
        problem = language(policy, reference=None, max_new_tokens=7)
        answer = beam_search(problem, PROMPTS, width=width, length=length, places="refilled")
        for found, prompt in zip(answer.found, PROMPTS, strict=True):
            assert list(found.path.tokens) == generated(policy, prompt, width=width, length_penalty=penalty)
            compared += found.path.tokens[-1] == EOS
    assert compared >= 5  # texts that end before the limit are among them


def test_a_refilled_beam_takes_ends_among_the_best_alone():
    """Of two live paths all six children end: the two best count."""
    tree = grow(vocab=3, horizon=2, eos=0)
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().expand(1, tree.states, 3)
    (found,) = beam_search(TreeProblem(tree, law), [0], width=2, length="mean", places="refilled").found
    assert [path.tokens for path, _ in found.compared] == [(0,), (1, 0), (2, 0)]


@pytest.mark.parametrize("length", ["sum", "mean"])
def test_a_shared_beam_finds_the_same_by_sum_and_another_by_mean(length):
    """What an end displaces is less likely than the text it ends, and sums only fall; means can rise again."""
    differ, read = 0, [0, 0]
    for seed in range(40):
        answers = [
            beam_search(Tree(seed=seed), ["p"], width=2, length=length, places=places)
            for places in ("shared", "refilled")
        ]
        differ += answers[0].found[0].path.tokens != answers[1].found[0].path.tokens
        read = [count + answer.forwarded for count, answer in zip(read, answers, strict=True)]
    assert (differ > 0) == (length == "mean") and read[0] <= read[1]


# --- combined laws ---------------------------------------------------------------------------------------------------


def test_the_combination_at_its_ends_is_base_and_proxy():
    proxy, ref = tiny(seed=1), tiny(seed=2)
    guide = language(proxy, reference=ref)
    for base, beta, wanted in ((tiny(seed=3), 0.0, tiny(seed=3)), (ref, 1.0, proxy)):
        both = Combined(language(base, reference=None), guide, beta=beta)
        alone = language(wanted, reference=None)
        for one, two in zip(*(beam_search(p, PROMPTS, width=3).found for p in (both, alone)), strict=True):
            assert one.path.tokens == two.path.tokens and one.score == pytest.approx(two.score, abs=1e-4)


def test_the_combination_is_the_formula_and_costs_three_models():
    base, proxy, ref = (tiny(seed=seed) for seed in (3, 4, 5))
    both = Combined(language(base, reference=None), language(proxy, reference=ref), beta=0.7)
    moves = both.expand([both.root(prompt) for prompt in PROMPTS])
    assert moves.forwarded == 3 * sum(len(prompt.tokens) for prompt in PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        laws = []
        for model in (base, proxy, ref):
            with torch.no_grad():
                laws.append(model.causal_lm(input_ids=torch.tensor([prompt.tokens])).logits[0, -1].double().softmax(-1))
        weight = laws[0] * (laws[1] / laws[2]) ** 0.7
        assert torch.allclose(moves.logp[row].exp(), weight / weight.sum(), atol=1e-6)
        assert torch.allclose(moves.ref_logp[row].exp(), laws[0], atol=1e-6)
    narrow = Combined(language(base, reference=None), language(proxy, reference=ref), beta=0.7, branch=3)
    few = narrow.expand([narrow.root(PROMPTS[0])])
    assert few.logp[0].tolist() == pytest.approx(sorted(moves.logp[0].tolist())[::-1][:3], abs=1e-6)


def test_tokens_of_no_probability_stay_out_of_a_combination():
    inf = float("inf")
    law = combined_law(
        torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double().log(), torch.tensor([[0.0, 0.4, 0.6, 0.0]]).double().log(),
        torch.tensor([[0.2, 0.8, 0.0, 0.0]]).double().log(), beta=1.0,
    )  # fmt: skip
    assert law.tolist() == [[-inf, 0.0, -inf, -inf]]


def test_a_combination_of_beta_zero_is_the_base_and_what_the_reference_never_writes_stays_out():
    base, proxy, ref = (
        torch.tensor([law]).double().log() for law in ([0.5, 0.2, 0.3], [0.0, 0.4, 0.6], [0.5, 0.5, 0.0])
    )
    assert torch.equal(combined_law(base, proxy, ref, beta=0.0), base.log_softmax(-1))
    for beta in (0.5, -0.5):
        assert combined_law(base, proxy, ref, beta=beta).exp().tolist() == [[0.0, 1.0, 0.0]]
    with pytest.raises(InputError, match="share no token"):
        combined_law(base, proxy, torch.tensor([[1.0, 0.0, 0.0]]).double().log(), beta=1.0)


# --- guidance --------------------------------------------------------------------------------------------------------


def test_guidance_by_implicit_reward_follows_the_formula_and_reads_each_token_once():
    policy, ref = tiny(seed=1), tiny(seed=2)
    problem = language(policy, reference=ref, max_new_tokens=4, end_ids=[])
    answer = guided(problem, PROMPTS[:1], by="implicit", beta=0.5, eta=0.25)
    tokens = list(PROMPTS[0].tokens)
    for _ in range(4):
        with torch.no_grad():
            p, r = (m.causal_lm(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1) for m in (policy, ref))
        tokens.append(int((p + 0.5 * (p - r) / 0.25).argmax()))
    assert list(answer.found[0].path.tokens) == tokens[3:]
    assert answer.forwarded == 2 * (3 + 3)


def test_reranking_takes_the_token_after_which_the_critic_expects_most():
    policy, critic = tiny(seed=1), tiny(seed=2, value_head=True)
    problem = language(policy, reference=None, critic=critic, max_new_tokens=3, end_ids=[])
    answer = guided(problem, PROMPTS[:1], by="critic", take="rerank", top=4, ends="critic")
    tokens = list(PROMPTS[0].tokens)
    for step in range(2):  # the last token ends the text: all are worth what the state is
        with torch.no_grad():
            top = policy.causal_lm(input_ids=torch.tensor([tokens])).logits[0, -1].topk(4).indices.tolist()
            values = [
                float(
                    critic.value_head(critic.backbone(input_ids=torch.tensor([[*tokens, t]])).last_hidden_state[0, -1])
                )
                for t in top
            ]
        tokens.append(top[values.index(max(values))])
        assert answer.found[0].path.tokens[step] == tokens[-1]
    assert answer.forwarded == 2 * (3 + 4 + 4)  # policy and critic; the chosen candidate is not read again


def test_without_a_score_an_end_is_worth_what_its_state_is():
    tree = grow(vocab=2, horizon=2, eos=0)  # the end token now: V of the root, -1; going on: -0.5
    value = torch.tensor([[-1.0, -0.5]], dtype=torch.float64)
    problem = TreeProblem(tree, torch.full((1, 2, 2), 0.5).double().log(), value=value)
    (found,) = guided(problem, [0], by="critic", take="rerank", ends="critic").found
    assert found.path.tokens[0] == 1


def test_what_the_reference_never_writes_stays_out_of_every_search_by_implicit_reward():
    tree = grow(vocab=2, horizon=2, eos=None)  # 00 01 10 11; the reference never writes 1 after 0
    law, ref = torch.tensor([[[0.4, 0.1, 0.25, 0.25]], [[0.5, 0.0, 0.25, 0.25]]], dtype=torch.float64)
    problem = TreeProblem(tree, tree.conditional(law), tree.conditional(ref))
    answers = [
        beam_search(problem, [0], width=4, by="implicit"),
        tree_search(problem, [0], simulations=20, values="implicit"),
        *(guided(problem, [0], by="implicit", take=take) for take in ("argmax", "sample", "rerank")),
    ]
    for answer in answers:
        assert all(math.isfinite(score) for _, score in answer.found[0].compared)
        assert 1 not in {leaf_of(path.state) for path, _ in answer.found[0].compared}
    with pytest.raises(InputError, match="the reference never writes a text that was drawn"):
        best_of_n(problem, [0], n=40, by="implicit")
    narrow = TreeProblem(tree, problem.ref_logp, problem.ref_logp.roll(1, -1))  # after 0 they share no token
    with pytest.raises(InputError, match="the reference writes none of the moves on offer in some state"):
        beam_search(narrow, [0], width=4, by="implicit")


def test_guidance_ends_with_the_policy_when_the_budget_is_spent():
    problem = language(tiny(seed=1), critic=tiny(seed=2, value_head=True), reference=None, max_new_tokens=6)
    (found,) = guided(problem, PROMPTS[:1], by="critic", top=5, ends="critic", budget=Budget(tokens=1)).found
    (greedy,) = beam_search(problem, PROMPTS[:1], width=1).found
    assert found.path.tokens == greedy.path.tokens


# --- votes -----------------------------------------------------------------------------------------------------------


def test_a_vote_sums_weights_and_leaves_out_who_has_no_answer():
    paths = [Path(i) for i in range(5)]
    logs = [math.log(w) for w in (5.0, 2.0, 2.5, 1.0, 9.0)]
    found = elected(paths, logs, ["a", "b", "b", "b", None])
    assert found.path.state == 2 and found.score == pytest.approx(5.5 / 10.5)
    assert elected(paths, [0.0] * 5, ["a", "b", None, "a", "b"]).path.state == 0  # a tie: the earlier answer
    nobody = elected(paths, logs, [None] * 5)  # the heaviest text, and no share of any vote
    assert nobody.path.state == 4 and nobody.score == 0.0 and {share for _, share in nobody.compared} == {0.0}


def test_votes_by_implicit_reward_weigh_the_same_whatever_beta_is():
    shares = [
        weighted_vote(Tree(seed=3), ["p"], n=9, extract=lambda state: len(state[1]), weight="implicit", beta=beta)
        for beta in (0.1, 0.0, 7.0)
    ]
    assert shares[0].found[0].score == shares[1].found[0].score == shares[2].found[0].score < 1.0


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_every_search_that_reads_beta_refuses_one_that_is_no_scale(beta):
    tree, line = Tree(seed=1), "^beta must be a finite number above 0, got"
    for search in (
        lambda: weighted_vote(tree, ["p"], n=2, extract=str, weight="reward", beta=beta),
        lambda: guided(tree, ["p"], by="implicit", beta=beta),
        lambda: best_of_n(tree, ["p"], n=2, by="implicit", beta=beta),
        lambda: beam_search(tree, ["p"], width=2, by="implicit", beta=beta),
        lambda: tree_search(tree, ["p"], simulations=2, values="implicit", beta=beta),
        lambda: Asked("vote", by="reward", reward="length:3", answer=".", beta=beta),
    ):
        with pytest.raises(InputError, match=line):
            search()
    if beta != beta or beta > 0:
        with pytest.raises(InputError, match="--proxy-beta must be finite"):
            Combined(tree, tree, beta=beta)


def test_votes_of_the_reference_estimate_the_optimum():
    """Weights exp(r/β) on samples of π make an answer's share that of π·exp(r/β)/Z."""
    tree, beta = Tree(seed=3), 2.0
    leaves = tree.leaves()
    mass = {text: torch.tensor(logp + sum(text) / beta).exp().item() for text, (logp, _) in leaves.items()}
    share = {n: sum(m for text, m in mass.items() if len(text) == n) / sum(mass.values()) for n in range(1, 5)}
    length = lambda state: len(state[1])
    (found,) = weighted_vote(tree, ["p"], n=6000, extract=length, weight="reward", beta=beta, seed=1).found
    best = max(share, key=share.get)
    assert len(found.path.tokens) == best and found.score == pytest.approx(share[best], abs=0.05)


def test_patterns_take_the_last_answer():
    read = by_pattern(r"is (\w+)", lambda text: text)
    assert read("it is a, no it is b .") == "b" and read("nothing") is None
    assert by_pattern(r"\d+", lambda text: text)("1 then 22") == "22"
    assert by_pattern(r"#### (.*)", lambda text: text)("a #### ") is None and by_pattern("x*", str)("b") is None
    with pytest.raises(InputError, match="--answer '\\(' is not a pattern"):
        by_pattern("(", str)


def test_answers_may_be_read_by_a_function(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def last(text):\n    return text.split()[-1] if text else None\n\ndef bad(text):\n    return 1 / 0\n"
    )
    read = by_answer(f"{file}:last", lambda text: text)
    assert read("a b") == "b" and read("") is None
    assert by_answer("x:(.)", lambda text: text)("x:7") == "7"  # not a file: a pattern
    with pytest.raises(InputError, match="has no function gone"):
        by_answer(f"{file}:gone", str)
    with pytest.raises(InputError, match=r"no file nowhere\.py"):
        by_answer("nowhere.py:last", str)
    with pytest.raises(RunError, match=r"raised ZeroDivisionError: division by zero, mine\.py line 5"):
        by_answer(f"{file}:bad", str)("a")


# --- budgets ---------------------------------------------------------------------------------------------------------


def test_samples_stop_when_the_budget_is_spent():
    tree = Tree(seed=1)
    groups, read = draws(tree, ["a", "b"], n=400, seed=1, budget=Budget(tokens=60))
    assert 1 <= len(groups[0]) == len(groups[1]) < 400 and read >= 60
    many = [path.tokens for path in draws(tree, ["a"], n=64, seed=1, budget=Budget(tokens=10**6))[0][0]]
    assert len(many) == 64 and many[:8] != many[8:16]  # a round draws anew
    whole = draws(tree, ["a"], n=8, seed=3)[0][0]
    assert whole == sample(tree, ["a"] * 8, n=8, seed=3)[0]  # without a budget, one round
    assert len(best_of_n(tree, ["a"], n=16, budget=Budget(seconds=30.0)).found[0].compared) == 16


def test_a_beam_narrows_when_the_budget_is_spent():
    problem = language(tiny(), reference=None, max_new_tokens=8, end_ids=[])
    answer = beam_search(problem, PROMPTS[:1], width=5, budget=Budget(tokens=12))
    assert len(answer.found[0].path.tokens) == 8
    assert answer.forwarded == 3 + 5 + 5 + 5  # the prompt, then 5, which spends it; then one path for 5 more tokens


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model, other = str(saved(folder / "a")), str(saved(folder / "b", seed=1))
    critic = str(save_reward_model(tiny(seed=2, value_head=True), load.tokenizer(model), folder / "critic"))
    prompts = runs.jsonl(folder / "prompts.jsonl", [{"prompt": "w5 w6"}, {"prompt": "w7 w8 w9"}])
    return {"model": model, "other": other, "critic": critic, "prompts": prompts}


@pytest.mark.parametrize(
    "words",
    [
        ["--strategy", "mcts", "--by", "implicit", "--ref", "OTHER", "--simulations", "5", "--c-puct", "2"],
        ["--strategy", "mcts", "--critic", "CRITIC", "--simulations", "3", "--backup", "max", "--take", "best"],
        ["--strategy", "mcts", "--by", "reward", "--reward", "length:3", "--moves", "sentence", "--spans", "2",
         "--simulations", "3", "--sentence-ends", "58"],
        ["--strategy", "guided", "--critic", "CRITIC", "--eta", "0.5", "--take", "sample", "--branch", "3"],
        ["--strategy", "guided", "--critic", "CRITIC", "--reward", "length:3"],
        ["--strategy", "beam", "--by", "implicit", "--ref", "OTHER", "--beta", "0.3", "--n", "3"],
        ["--strategy", "beam", "--proxy", "OTHER", "--proxy-ref", "MODEL", "--proxy-beta", "0.5", "--length", "mean"],
        ["--strategy", "mcts", "--by", "implicit", "--proxy", "OTHER", "--proxy-ref", "MODEL", "--simulations", "3"],
        ["--strategy", "vote", "--answer", "w[0-9]+", "--n", "3", "--by", "reward", "--reward", "length:3"],
        ["--strategy", "best-of-n", "--by", "likelihood", "--n", "16", "--budget-tokens", "20"],
        ["--strategy", "beam", "--places", "refilled", "--budget-seconds", "5"],
    ],
    ids=lambda words: " ".join(words[1:4]),
)  # fmt: skip
def test_every_strategy_writes_records(words, places, capsys):
    named = {"MODEL": places["model"], "OTHER": places["other"], "CRITIC": places["critic"]}
    words = [named.get(word, word) for word in words]
    common = ["--model", places["model"], "--prompts", places["prompts"], "--max-new-tokens", "4"]
    assert main(["sample", *common, *words, "--alternatives", "2", "--progress", "lines"]) == 0
    out = capsys.readouterr()
    records = [json.loads(line) for line in out.out.splitlines()]
    assert [record["prompt"] for record in records] == ["w5 w6", "w7 w8 w9"]
    for record in records:
        assert 1 <= record["tokens"] <= 4 and record["logp"] < 0 and record["strategy"] == words[1]
        assert record["forwarded"] > 0 and 1 <= len(record["alternatives"]) <= min(2, record["compared"])
    assert out.err.count("tokens read") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"strategy": "beam", "simulations": 3}, "--simulations belongs to mcts; beam does not read it: leave it out"),
        ({"strategy": "guided", "n": 3}, "--n belongs to sample and best-of-n and vote and beam; guided does not"),
        ({"budget_tokens": 9}, "--budget-tokens belongs to .*; sample does not read it"),
        ({"ref": "x"}, "--ref belongs to .*; sample does not read it"),
        ({"beta": 3.0}, "--beta belongs to .*; sample does not read it"),
        ({"progress": "lines"}, "--progress belongs to .*; sample does not read it"),
        ({"strategy": "mcts"}, "mcts by critic needs --critic; or give --by implicit or --by reward"),
        (
            {"strategy": "mcts", "by": "implicit", "ref": "x", "critic": "y"},
            "--critic is read by --by critic; mcts by implicit does not read it: leave it out",
        ),
        (
            {"strategy": "beam", "by": "implicit", "ref": "x", "proxy": "y", "proxy_ref": "z"},
            "--ref is not read with --proxy: a combination is compared with its base",
        ),
        (
            {"strategy": "vote", "by": "implicit", "ref": "x", "answer": ".", "beta": 2.0},
            "vote by implicit reward weighs by π/π_ref, whatever --beta is: leave it out",
        ),
        ({"strategy": "guided", "critic": "x", "take": "rerank", "eta": 0.5}, "--take rerank does not read it"),
        ({"strategy": "beam", "by": "implicit", "ref": "x", "beta": -1.0}, "beta must be a finite number above 0"),
        ({"strategy": "mcts", "by": "implicit"}, "mcts by implicit reward compares with a reference: give --ref"),
        ({"strategy": "guided", "by": "reward"}, "guided ranks by critic, implicit, got --by reward: unfinished texts"),
        ({"strategy": "beam", "by": "reward"}, "beam ranks by likelihood, implicit, got --by reward: unfinished texts"),
        ({"strategy": "beam", "ref": "x"}, "--ref is read by --by implicit; beam by likelihood does not compare"),
        ({"strategy": "beam", "beta": 0.5}, "--beta scales the implicit reward; beam by likelihood does not read it"),
        ({"strategy": "best-of-n"}, "best-of-n by reward needs one: give --reward, or --by likelihood or implicit"),
        ({"strategy": "best-of-n", "by": "likelihood", "reward": "length:3"}, "--reward is not read by best-of-n by"),
        ({"strategy": "vote"}, "vote compares final answers: give --answer REGEX"),
        ({"strategy": "beam", "proxy": "x"}, "proxy tuning needs both models: give --proxy and --proxy-ref"),
        ({"proxy": "x", "proxy_ref": "y"}, "a combination of models is drawn from by --strategy best-of-n"),
        ({"strategy": "mcts", "by": "implicit", "ref": "x", "spans": 3}, "give --moves sentence too"),
        ({"strategy": "mcts", "by": "implicit", "ref": "x", "sentence_ends": ";"}, "give --moves sentence too"),
        (
            {"strategy": "beam", "sentence_ends": ";"},
            "^--sentence-ends belongs to mcts; beam does not read it: leave it out$",
        ),
        ({"limit": 0}, "--limit must be 1 or more, got 0"),
        ({"strategy": "beam", "alternatives": -1}, "--alternatives must be 1 or more, got -1"),
        ({"max_new_tokens": 64}, "--max-new-tokens 64 leaves no room for a prompt in the model's context of 64"),
    ],
)
def test_flags_that_a_strategy_would_not_read_are_refused(words, message, places):
    with pytest.raises(InputError, match=message):
        next(answers(places["model"], prompts=places["prompts"], **words))


@pytest.mark.parametrize(
    "words",
    [
        {"strategy": "best-of-n", "by": "likelihood", "n": 1},
        {"strategy": "guided", "by": "implicit", "ref": "OTHER", "take": "sample", "eta": 3.0},
        {
            "strategy": "mcts",
            "by": "reward",
            "reward": "length:3",
            "moves": "sentence",
            "spans": 1,
            "sentence_ends": "8",
        },
    ],
    ids=lambda words: words["strategy"],
)
def test_every_prompt_draws_its_own_numbers_whoever_else_is_asked(words, places, tmp_path):
    prompts = runs.jsonl(tmp_path / "same.jsonl", [{"prompt": "w5 w6"}] * 3)
    words = {**words, "prompts": prompts, "max_new_tokens": 4} | ({"ref": places["other"]} if "ref" in words else {})
    texts = [record["completion"] for record in answers(places["model"], **words)]
    assert len(set(texts)) > 1
    assert [record["completion"] for record in answers(places["model"], limit=2, **words)] == texts[:2]
    assert [record["completion"] for record in answers(places["model"], seed=1, **words)] != texts


def test_what_became_of_the_prompts_is_told(places, tmp_path, capsys):
    rows = [{"prompt": "w5 w6"}, {"prompt": 5}, {"prompt": " ".join(["w7"] * 70)}]
    file = runs.jsonl(tmp_path / "rows.jsonl", rows)
    assert len(list(answers(places["model"], prompts=file, max_new_tokens=4))) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("1 of 3 rows dropped (33.3 %): 1 wrong type; first: ")
    assert told[1].startswith("1 of 3 rows: prompt cut to its last 60 tokens (the record shows it whole); first: ")


def test_the_take_of_another_strategy_is_refused(places):
    words = {"strategy": "guided", "critic": places["critic"], "take": "visited"}
    with pytest.raises(InputError, match="--take of guided is argmax, sample, rerank, got visited"):
        next(answers(places["model"], prompts=places["prompts"], max_new_tokens=4, **words))


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("ref", {"strategy": "beam", "by": "implicit"}),
        ("critic", {"strategy": "guided"}),
        ("proxy", {"strategy": "beam", "proxy_ref": "MODEL"}),
        ("proxy_ref", {"strategy": "beam", "proxy": "MODEL"}),
    ],
)
def test_a_model_that_reads_other_tokens_is_refused_by_its_flag(role, words, places, tmp_path):
    folder = shutil.copytree(places["critic" if role == "critic" else "other"], tmp_path / "other")
    word_tokenizer(size=VOCABULARY - 2).save_pretrained(folder)
    words = {name: places["model"] if word == "MODEL" else word for name, word in words.items()} | {role: str(folder)}
    line = (
        rf"^--{role.replace('_', '-')} \S+ has another tokenizer than the policy \(2 entries differ\): it reads the "
        "policy's token ids: give a model that was trained from the same base$"
    )
    with pytest.raises(InputError, match=line):
        next(answers(places["model"], prompts=places["prompts"], **words))


def test_a_run_directory_stands_for_its_model(places, tmp_path):
    for name in ("model", "other"):
        shutil.copytree(places[name], tmp_path / name / "model")
        (tmp_path / name / "config.yaml").write_text("recipe: dpo\n")
    words = {"prompts": places["prompts"], "strategy": "beam", "by": "implicit", "max_new_tokens": 4}
    one, two = (
        [(record["completion"], record["score"]) for record in answers(model, ref=ref, **words)]
        for model, ref in (
            (str(tmp_path / "model"), str(tmp_path / "other")),
            (places["model"], places["other"]),
        )
    )
    assert one == two


def test_values_of_a_run_are_found_and_a_model_without_any_is_refused(places, tmp_path):
    """`--critic RUN`: its critic/, or the head that it kept of a critic on the policy's trunk."""
    policy = tiny(seed=1, value_head=True)
    save_policy(policy, load.tokenizer(places["model"]), tmp_path / "shared" / "model")
    save_value_head(policy, tmp_path / "shared" / "value_head.safetensors")
    (tmp_path / "own").mkdir()
    shutil.copytree(places["critic"], tmp_path / "own" / "critic")
    words = {"strategy": "guided", "limit": 1, "max_new_tokens": 4, "prompts": places["prompts"], "take": "rerank"}
    words |= {"branch": VOCABULARY}
    one, two, three = (
        next(iter(answers(places["model"], critic=str(critic), **words)))
        for critic in (tmp_path / "own", places["critic"], tmp_path / "shared")
    )
    assert [one[key] for key in ("completion", "score")] == [two[key] for key in ("completion", "score")]
    loaded = value_model(str(tmp_path / "shared"))
    assert torch.equal(loaded.value_head.weight, policy.value_head.weight)
    problem = language(load.policy(places["model"]), reference=None, critic=loaded, max_new_tokens=4)
    (found,) = guided(problem, [Prompt(0, (5, 6), "")], by="critic", take="rerank", ends="critic").found
    assert three["score"] == pytest.approx(found.score, abs=1e-5) != pytest.approx(one["score"], abs=1e-3)
    with pytest.raises(InputError, match="has learned no values: give the directory of a run with a critic"):
        list(answers(places["model"], critic=places["other"], **words))
