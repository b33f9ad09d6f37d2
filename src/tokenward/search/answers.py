"""Texts of a model for the prompts of a file: samples, best of n, or beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

from tokenward.data import dataset
from tokenward.data.tokenize import Limits, Prompt
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.rollout.rewards import Reward, completion_text
from tokenward.rollout.rewards import judge as load_judge
from tokenward.rollout.sampler import GenerateSampler, Law
from tokenward.search.beam import beam_search
from tokenward.search.best_of_n import best_of_n
from tokenward.search.language import LanguageProblem, rollout
from tokenward.search.problem import Answer, By
from tokenward.types import Rollout

Strategy = Literal["sample", "best-of-n", "beam"]
Record = dict[str, Any]
Text = tuple[Prompt, Rollout, float, float | None]  # prompt, completion, Σ log π, score


def answers(
    model: str,
    *,
    prompts: str,
    strategy: Strategy = "sample",
    n: int | None = None,
    by: Literal["reward", "likelihood", "implicit"] | None = None,
    reward: str | None = None,
    reward_timeout_s: float | None = None,
    ref: str | None = None,
    beta: float = 1.0,
    limit: int | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    split: str = "train",
    seed: int = 0,
    dtype: Literal["float32", "bfloat16", "float64"] = "float32",
    device: Literal["cpu", "cuda"] = "cpu",
) -> Iterator[Record]:
    """One record per text: {"prompt", "completion", "tokens", "finish", "logp", "score"}, in the prompts' order.

    `n`: samples of a prompt (absent: 1), samples to choose from (absent: 8), or width of the beam (absent: 4). `by`:
    what best-of-n (absent: reward) and beam (absent: likelihood) rank by; implicit is β Σ log π/π_ref. `limit`: the
    first so many prompts. temperature, top_k and top_p belong to sample.
    """
    law = Law(temperature=temperature, top_k=top_k, top_p=top_p)
    _check(strategy, law, by=by, reward=reward, ref=ref)
    tokenizer = load.tokenizer(model)
    judge = load_judge(reward, tokenizer=tokenizer, dtype=dtype, device=device, timeout_s=reward_timeout_s)
    policy = load.policy(model, dtype=dtype, device=device)
    asked, pad = _prompts(prompts, tokenizer, split=split, context=policy.context, room=max_new_tokens)
    ends = load.end_ids(policy, tokenizer)
    known: dict[str, Any] = {"end_ids": ends, "pad_id": pad, "max_new_tokens": max_new_tokens}
    if strategy == "sample":
        found = _sampled(GenerateSampler(policy, law=law, seed=seed, **known), asked[:limit], judge, n=n or 1)
    else:
        reference = None if ref is None else load.policy(ref, dtype=dtype, device=device)
        problem = LanguageProblem(policy, reference=reference, reward=judge, **known)
        if strategy == "beam":
            rank: By = "implicit" if by == "implicit" else "likelihood"
            search = partial(beam_search, problem, width=n or 4, by=rank, beta=beta)
        else:
            search = partial(best_of_n, problem, n=n or 8, by=by or "reward", beta=beta, seed=seed)
        found = _searched(search, asked[:limit])
    for prompt, text, logp, score in found:
        yield _record(tokenizer, prompt, text, logp=logp, score=score)


def _prompts(file: str, tokenizer: Any, *, split: str, context: int | None, room: int) -> tuple[list[Prompt], int]:
    """The prompts of a file, each with room for its text, and the id that pads rows."""
    limits = Limits(context, None if context is None else context - room)
    data = dataset.survey(file, tokenizer=tokenizer, kind="prompts", asked_by="sample", split=split, limits=limits)
    return [example for example in data.examples if isinstance(example, Prompt)], data.encoder.pad


def _sampled(sampler: GenerateSampler, asked: list[Prompt], judge: Reward | None, *, n: int) -> Iterator[Text]:
    by_id = {prompt.id: prompt for prompt in asked}
    for group in sampler.generate(asked, group=n, version=0):
        for text in group if judge is None else judge.score(group, by_id):
            yield by_id[text.prompt_id], text, sum(text.logp), text.total


def _searched(search: Callable[[list[Prompt]], Answer[Any]], asked: list[Prompt]) -> Iterator[Text]:
    """Prompt by prompt: texts appear as they are found."""
    for prompt in asked:
        (best,) = search([prompt]).found
        yield prompt, rollout(best.path.state), best.path.logp, best.score


def _check(strategy: Strategy, law: Law, *, by: str | None, reward: str | None, ref: str | None) -> None:
    """One line for what the strategy lacks, or would not read."""
    if strategy != "sample" and law != Law():
        raise InputError(f"temperature, top_k and top_p belong to sample; {strategy} follows the model as it is")
    ranks = {"sample": None, "best-of-n": by or "reward", "beam": by or "likelihood"}[strategy]
    if strategy == "sample" and (by is not None or ref is not None):
        raise InputError("by and ref rank texts: give --strategy best-of-n or beam")
    if strategy == "beam" and (by == "reward" or reward is not None):
        raise InputError("beam ranks unfinished texts, which have no reward: give --by likelihood or --by implicit")
    if ranks == "reward" and reward is None:
        raise InputError("best-of-n by reward needs one: give --reward, or --by likelihood or implicit")
    if ranks == "implicit" and ref is None:
        raise InputError(f"{strategy} by implicit reward compares with a reference: give --ref")


def _record(tokenizer: Any, prompt: Prompt, found: Rollout, *, logp: float, score: float | None) -> Record:
    text = completion_text(tokenizer, found.prompt_tokens, found.response_tokens)
    record: Record = {"prompt": prompt.text, "completion": text, "tokens": len(found.response_tokens)}
    return record | {"finish": found.finish, "logp": logp} | ({} if score is None else {"score": score})
