"""What the study measures on held-out prompts: true reward, length and tokens read of every search."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from tokenward.data.tokenize import Prompt
from tokenward.demo.measure import MAX_NEW_TOKENS, Bench
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.rollout.rewards import ModelReward, Reward
from tokenward.search.beam import Length, beam_search
from tokenward.search.best_of_n import best_of_n, sample
from tokenward.search.combined import Combined
from tokenward.search.guided import guided
from tokenward.search.language import LanguageProblem, rollout
from tokenward.search.mcts import tree_search
from tokenward.search.moves import Spans
from tokenward.search.problem import Answer, Path
from tokenward.trained.search.plan import PILOT
from tokenward.types import Rollout

Numbers = dict[str, Any]
BRANCH = 8  # likeliest tokens that an implicit reward, a critic or a tree search chooses among
SETTINGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
STRONGER = 2.0  # β of the realigned policy: twice as far from SFT as DPO, in log-ratios


@final
@dataclass(frozen=True)
class Models:
    """Directories of the models, and the β of DPO and PPO."""

    sft: str
    dpo: str
    ppo: str
    critic: str
    reward: str
    beta: float
    beta_kl: float


@final
class Counted:
    """A reward model that counts the tokens it reads."""

    def __init__(self, reward: Reward) -> None:
        self.reward, self.read = reward, 0

    def score(self, rollouts: Sequence[Rollout], prompts: Mapping[int, Prompt]) -> list[Rollout]:
        self.read += sum(len(r.prompt_tokens) + len(r.response_tokens) for r in rollouts)
        return self.reward.score(rollouts, prompts)


def beams(bench: Bench, model: str, *, width: int, length: Length, prompts: int) -> Numbers:
    """The texts of a beam by likelihood, on the first prompts; a beam of `width` stays that wide (as in `generate`)."""
    asked = bench.prompts[:prompts]
    problem = _problem(bench, load.policy(model))
    answer = beam_search(problem, asked, width=width, length=length, places="refilled")
    return columns(bench, [found.path for found in answer.found], forwarded=answer.forwarded)


def columns(bench: Bench, paths: Sequence[Path[Any]], *, forwarded: int) -> Numbers:
    """True reward, length, wrong tokens and log π of each prompt's text; tokens read per prompt."""
    texts = bench.truth.score([rollout(path.state) for path in paths], bench.named)
    return {
        "reward": [float(text.score or 0.0) for text in texts],
        "length": [len(path.tokens) for path in paths],
        "errors": [(text.parts or {})["errors"] for text in texts],
        "ended": [path.state.finish == "stop" for path in paths],
        "logp": [path.logp for path in paths],
        "read": forwarded / len(paths),
    }


@final
@dataclass(frozen=True)
class Task:
    """What a strategy works with: the bench, the models, and a reward model that counts what it reads."""

    bench: Bench
    models: Models
    judge: Counted

    def problem(self, policy: str, *, reference: bool = False, **more: Any) -> LanguageProblem:
        """A policy's texts, with SFT as the reference if it is needed."""
        model, sft = load.policy(getattr(self.models, policy)), self.bench.reference
        return _problem(self.bench, model, reference=sft if reference else None, reward=self.judge, **more)


Texts = tuple[list[Path[Any]], int]
Strategy = Callable[[Task, list[Prompt], int], Texts]  # the number is n, a width, or simulations: what costs tokens


def strategy(bench: Bench, models: Models, name: str, *, prompts: int, budget: int) -> Numbers:
    """One text of a strategy for each of the first prompts, at the largest setting within the budget.

    The setting is the largest of SETTINGS that reads at most `budget` tokens a prompt on the last PILOT held-out
    prompts, on which nothing is compared; found by bisection, as more of anything reads more. Tokens that the reward
    model reads count.
    """
    task = Task(bench, models, Counted(ModelReward(load.reward_model(models.reward), name="reward-model")))
    pilot, (work, unit) = bench.prompts[-PILOT:], STRATEGIES[name]
    over = bisect_right(SETTINGS[1:] if unit else (), float(budget), key=lambda n: _read(task, work, pilot, n)[1])
    setting = SETTINGS[over]
    paths, read = _read(task, work, bench.prompts[:prompts], setting)
    return {**columns(bench, paths, forwarded=round(read * prompts)), "setting": f"{unit} {setting}" if unit else "–"}


def _read(task: Task, work: Strategy, prompts: list[Prompt], number: int) -> tuple[list[Path[Any]], float]:
    """The texts, and the tokens read per prompt by all models."""
    task.judge.read = 0
    paths, forwarded = work(task, prompts, number)
    return paths, (forwarded + task.judge.read) / len(prompts)


def _problem(bench: Bench, policy: Scorer, **more: Any) -> LanguageProblem:
    return LanguageProblem(policy, end_ids=bench.ends, pad_id=bench.pad, max_new_tokens=MAX_NEW_TOKENS, **more)


def _texts(answer: Answer[Any]) -> Texts:
    return [found.path for found in answer.found], answer.forwarded


def _sampled(policy: str) -> Strategy:
    return lambda task, prompts, _: sample(task.problem(policy), prompts, seed=task.bench.seed + 6)


def _greedy(policy: str) -> Strategy:
    return lambda task, prompts, _: _texts(beam_search(task.problem(policy), prompts, width=1))


def _best(policy: str) -> Strategy:
    return lambda task, prompts, n: _texts(best_of_n(task.problem(policy), prompts, n=n, seed=task.bench.seed + 6))


def _beam(policy: str) -> Strategy:
    return lambda task, prompts, width: _texts(beam_search(task.problem(policy), prompts, width=width))


def _best_implicit(task: Task, prompts: list[Prompt], n: int) -> Texts:
    problem, seed = task.problem("dpo", reference=True), task.bench.seed + 6
    return _texts(best_of_n(problem, prompts, n=n, by="implicit", beta=task.models.beta, seed=seed))


def _beam_implicit(task: Task, prompts: list[Prompt], width: int) -> Texts:
    problem = task.problem("dpo", reference=True, branch=BRANCH)
    return _texts(beam_search(problem, prompts, width=width, by="implicit", beta=task.models.beta))


def _tree_implicit(task: Task, prompts: list[Prompt], count: int) -> Texts:
    problem = task.problem("dpo", reference=True, branch=BRANCH)
    return _texts(tree_search(problem, prompts, simulations=count, values="implicit", beta=task.models.beta))


def _tree_sentences(task: Task, prompts: list[Prompt], count: int) -> Texts:
    ends = frozenset(task.bench.tokenizer.convert_tokens_to_ids([".", "!"]))
    problem = Spans(task.problem("dpo"), ends=ends, count=4, most=16, seed=task.bench.seed)
    answer = tree_search(problem, prompts, simulations=count, values="rollout", take="best", seed=task.bench.seed)
    return [found.path.state.path for found in answer.found], answer.forwarded


def _realigned(task: Task, prompts: list[Prompt], width: int) -> Texts:
    problem = Combined(task.problem("sft"), task.problem("dpo", reference=True), beta=STRONGER)
    paths, read = _texts(beam_search(problem, prompts, width=width))
    return [Path(path.state.base, path.logp, path.ref_logp, path.tokens) for path in paths], read


def _with_critic(task: Task, *, branch: int | None) -> LanguageProblem:
    return task.problem("ppo", critic=load.critic(task.models.critic), branch=branch)


def _tree_critic(task: Task, prompts: list[Prompt], count: int) -> Texts:
    problem = _with_critic(task, branch=BRANCH)
    return _texts(tree_search(problem, prompts, simulations=count, values="critic", ends="critic"))


def _guided_critic(task: Task, prompts: list[Prompt], top: int) -> Texts:
    eta = task.models.beta_kl
    return _texts(guided(_with_critic(task, branch=None), prompts, by="critic", ends="critic", eta=eta, top=top))


STRATEGIES: dict[str, tuple[Strategy, str]] = {  # by name: what it does, and what its setting counts
    "DPO, one sample": (_sampled("dpo"), ""),
    "DPO, greedy": (_greedy("dpo"), ""),
    "DPO, best of n, reward model": (_best("dpo"), "n"),
    "DPO, best of n, implicit reward": (_best_implicit, "n"),
    "DPO, beam, likelihood": (_beam("dpo"), "width"),
    "DPO, beam, implicit reward": (_beam_implicit, "width"),
    "DPO, tree search, tokens, implicit reward": (_tree_implicit, "simulations"),
    "DPO, tree search, sentences, reward model": (_tree_sentences, "simulations"),
    "DPO, beam, realigned": (_realigned, "width"),
    "PPO, one sample": (_sampled("ppo"), ""),
    "PPO, greedy": (_greedy("ppo"), ""),
    "PPO, best of n, reward model": (_best("ppo"), "n"),
    "PPO, beam, likelihood": (_beam("ppo"), "width"),
    "PPO, tree search, tokens, critic": (_tree_critic, "simulations"),
    "PPO, guided, critic": (_guided_critic, "tokens tried"),
}
