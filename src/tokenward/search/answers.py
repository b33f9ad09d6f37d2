"""Texts of a model for the prompts of a file: samples, or one text of a search for each."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

from tokenward.data import dataset
from tokenward.data.sentences import sentence_ends as find_ends
from tokenward.data.tokenize import Limits, Prompt
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.models.value_head import value_model, value_source
from tokenward.models.vocabulary import SAME_BASE, same_tokens
from tokenward.rollout.rewards import Reward, completion_text
from tokenward.rollout.rewards import judge as load_judge
from tokenward.rollout.sampler import GenerateSampler, Law
from tokenward.search.beam import Length, Places
from tokenward.search.combined import Both, Combined
from tokenward.search.language import LanguageProblem, rollout
from tokenward.search.mcts import Backup
from tokenward.search.moves import Spanned
from tokenward.search.problem import Path, Problem, own_seed
from tokenward.search.strategies import Asked, Rank, Strategy, search_of
from tokenward.search.telling import Show, Telling
from tokenward.search.vote import by_answer
from tokenward.types import Rollout

Record = dict[str, Any]
BRANCH = 8  # tokens among which a tree search, guidance, or a beam by implicit reward chooses, unless told otherwise


def answers(
    model: str, *, prompts: str, strategy: Strategy = "sample", n: int | None = None, by: Rank | None = None,
    reward: str | None = None, reward_timeout_s: float | None = None, ref: str | None = None, critic: str | None = None,
    beta: float | None = None, proxy: str | None = None, proxy_ref: str | None = None, proxy_beta: float | None = None,
    answer: str | None = None, length: Length | None = None, places: Places | None = None,
    simulations: int | None = None, c_puct: float | None = None, backup: Backup | None = None,
    leaves: int | None = None, moves: Literal["token", "sentence"] | None = None, spans: int | None = None,
    sentence_ends: str | None = None, take: str | None = None, eta: float | None = None, branch: int | None = None,
    budget_tokens: int | None = None, budget_seconds: float | None = None, alternatives: int | None = None,
    limit: int | None = None, max_new_tokens: int = 64, temperature: float | None = None, top_k: int | None = None,
    top_p: float | None = None, split: str = "train", seed: int = 0, progress: Show | None = None,
    dtype: Literal["float32", "bfloat16", "float64"] = "float32", device: Literal["cpu", "cuda"] = "cpu",
) -> Iterator[Record]:  # fmt: skip
    """One record per text, in the prompts' order: prompt, completion, tokens, finish, logp, score (of `sample`
    only with --reward); of a search, more.

    `n`: samples of a prompt (absent: 1), samples to choose from (absent: 8), or width of the beam (absent: 4). `by`:
    what best-of-n (absent: reward), vote (count), beam (likelihood), mcts and guided (critic) rank by; implicit is
    β Σ log π/π_ref with --ref and --beta. --proxy, --proxy-ref, --proxy-beta: the law π·(π_proxy/π_proxy_ref)^β instead
    of π. --answer: what a final answer is, for vote (a pattern, or FILE.py:function). mcts: --simulations, --c-puct,
    --backup, --leaves (read together), --moves (with --spans sentences tried, --sentence-ends, absent: .!?), --take
    visited or best; guided: --take argmax, sample or rerank, --eta. --branch: tokens to choose among. Budgets are of
    each prompt. --alternatives: how many of the compared texts to write down. docs/search.md has the formulas.
    """
    asked = Asked(
        strategy, n, by, reward, ref, critic, proxy, proxy_ref, proxy_beta, beta, budget_tokens, budget_seconds, branch,
        take, answer, length, places, eta, simulations, c_puct, backup, leaves, moves, spans, sentence_ends,
        temperature, top_k, top_p, alternatives, progress,
    )  # fmt: skip
    _at_least_one(limit=limit, max_new_tokens=max_new_tokens, alternatives=alternatives)
    tokenizer = load.tokenizer(model)
    _same_ids(asked, tokenizer)
    judge = load_judge(reward, tokenizer=tokenizer, dtype=dtype, device=device, timeout_s=reward_timeout_s)
    policy = load.policy(model, dtype=dtype, device=device)
    data = _survey(prompts, tokenizer, split=split, context=policy.context, room=max_new_tokens)
    texts = [example for example in data.examples if isinstance(example, Prompt)][:limit]
    bench = _Bench(tokenizer, policy, judge, load.end_ids(policy, tokenizer), data.encoder.pad, max_new_tokens)
    if strategy == "sample":
        law = Law(temperature=1.0 if temperature is None else temperature, top_k=top_k, top_p=top_p)
        yield from bench.sampled(texts, law, n=1 if n is None else n, seed=seed)
        return
    marks = ".!?" if sentence_ends is None else sentence_ends
    ends = find_ends(data.encoder, characters=marks) if moves == "sentence" else frozenset()
    problem = bench.problem(asked, dtype=dtype, device=device)
    yield from bench.searched(asked, problem, texts, seed=seed, ends=ends, show=progress or "auto")


def _at_least_one(**flags: int | None) -> None:
    for name, value in flags.items():
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")


def _same_ids(asked: Asked, tokenizer: Any) -> None:
    """Every model beside the policy reads its token ids, or is refused before any weights are read."""
    values = None if asked.critic is None else value_source(asked.critic)[0]
    others = {"--ref": asked.ref, "--critic": values, "--proxy": asked.proxy, "--proxy-ref": asked.proxy_ref}
    for flag, path in others.items():
        if path is not None:
            same_tokens(path, tokenizer, what=flag, remedy=SAME_BASE)


def _survey(file: str, tokenizer: Any, *, split: str, context: int | None, room: int) -> Any:
    """The prompts of a file, each with room for its text; rows that were dropped or changed are told on stderr."""
    if context is not None and room >= context:
        raise InputError(f"--max-new-tokens {room} leaves no room for a prompt in the model's context of {context}")
    limits = Limits(context, None if context is None else context - room)
    found = dataset.survey(file, tokenizer=tokenizer, kind="prompts", asked_by="sample", split=split, limits=limits)
    tally = found.tally
    tally.refuse(max_dropped=1.0)
    if dropped := tally.summary():
        print(dropped, file=sys.stderr)
    for change, count in tally.changed.items():
        more = f" to its last {limits.max_prompt_tokens} tokens (the record shows it whole)"
        what = change + more if change == "prompt cut" else change
        print(f"{count} of {tally.rows} rows: {what}; first: {tally.first[change][0]}", file=sys.stderr)
    return found


@final
@dataclass(frozen=True)
class _Bench:
    """The policy with its tokenizer, and what ends or judges its texts."""

    tokenizer: Any
    policy: Scorer
    judge: Reward | None
    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int

    def sampled(self, asked: list[Prompt], law: Law, *, n: int, seed: int) -> Iterator[Record]:
        """n samples of each prompt."""
        sampler = GenerateSampler(
            self.policy,
            end_ids=self.end_ids,
            pad_id=self.pad_id,
            max_new_tokens=self.max_new_tokens,
            law=law,
            seed=seed,
        )
        by_id = {prompt.id: prompt for prompt in asked}
        for group in sampler.generate(asked, group=n, version=0):
            for text in group if self.judge is None else self.judge.score(group, by_id):
                record = self.record(by_id[text.prompt_id], text, logp=sum(text.logp))
                yield record | ({} if text.total is None else {"score": text.total})

    def problem(self, asked: Asked, *, dtype: str, device: str) -> Problem[Any, Any]:
        """The texts of the policy, or of its combination with a proxy, with what the search asks of them."""
        known: dict[str, Any] = {
            "end_ids": self.end_ids, "pad_id": self.pad_id, "max_new_tokens": self.max_new_tokens
        }  # fmt: skip
        narrow = asked.strategy == "guided" or (asked.strategy == "beam" and asked.rank == "implicit")
        narrow |= asked.strategy == "mcts" and asked.moves != "sentence"  # sentences are drawn from the whole law
        branch = asked.branch if asked.branch is not None else BRANCH if narrow else None
        critic = None if asked.critic is None else value_model(asked.critic, dtype=dtype, device=device)
        reference = None if asked.ref is None else load.policy(asked.ref, dtype=dtype, device=device)
        plain = partial(LanguageProblem, self.policy, critic=critic, reward=self.judge, **known)
        if asked.proxy is None or asked.proxy_ref is None:
            return plain(reference=reference, branch=branch)
        proxy, anchor = (load.policy(path, dtype=dtype, device=device) for path in (asked.proxy, asked.proxy_ref))
        guide = LanguageProblem(proxy, reference=anchor, **known)
        return Combined(plain(), guide, beta=1.0 if asked.proxy_beta is None else asked.proxy_beta, branch=branch)

    def searched(
        self, asked: Asked, problem: Problem[Any, Any], prompts: list[Prompt], *, seed: int, ends: frozenset[int],
        show: Show,
    ) -> Iterator[Record]:  # fmt: skip
        """Prompt by prompt, each with a seed of its own: texts appear as they are found."""
        telling = Telling(total=len(prompts), show=show)
        extract = None if asked.answer is None else by_answer(asked.answer, self.text)
        for prompt in prompts:
            start, own = time.monotonic(), own_seed(seed, prompt.id)
            answer = search_of(asked, problem, seed=own, extract=extract, ends=ends, tell=telling)([prompt])
            telling.prompt(forwarded=answer.forwarded)
            (best,) = answer.found
            path = in_tokens(best.path)
            record = self.record(prompt, rollout(path.state), logp=path.logp) | {
                "score": best.score, "strategy": asked.strategy, "by": asked.rank, "compared": len(best.compared),
                "forwarded": answer.forwarded, "seconds": round(time.monotonic() - start, 3),
            }  # fmt: skip
            if extract is not None:
                record["answer"] = extract(best.path.state)
            if asked.alternatives is not None:
                record["alternatives"] = [
                    {"completion": self.text(other.state), "logp": in_tokens(other).logp, "score": score}
                    for other, score in best.compared[: asked.alternatives]
                ]
            yield record

    def text(self, state: Any) -> str:
        """What a finished state of any problem says."""
        found = rollout(in_tokens(Path(state)).state)
        return completion_text(self.tokenizer, found.prompt_tokens, found.response_tokens)

    def record(self, prompt: Prompt, found: Rollout, *, logp: float) -> Record:
        text = completion_text(self.tokenizer, found.prompt_tokens, found.response_tokens)
        record: Record = {"prompt": prompt.text, "completion": text, "tokens": len(found.response_tokens)}
        return record | {"finish": found.finish, "logp": logp}


def in_tokens(path: Path[Any]) -> Path[Any]:
    """A path of any problem here as one of the model's tokens that ends in its text."""
    if isinstance(path.state, Spanned):
        return in_tokens(path.state.path)
    inner = path.state.base if isinstance(path.state, Both) else path.state
    return Path(inner, path.logp, path.ref_logp, path.tokens)
