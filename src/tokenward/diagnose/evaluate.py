"""What a model is worth on held-out data: preferences it gets right, or the reward, KL and length of its own texts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, final

from tokenward.data import dataset
from tokenward.data.collate import pairs_batch, rollouts_batch
from tokenward.data.tokenize import Limits, Pair, Prompt, StepPair
from tokenward.diagnose.measures.intervals import Estimate, estimate
from tokenward.errors import InputError
from tokenward.masking import row_sum
from tokenward.models import frozen, load
from tokenward.models.forward import Scorer
from tokenward.models.vocabulary import SAME_BASE, same_tokens
from tokenward.rollout.rewards import Reward
from tokenward.rollout.rewards import judge as load_judge
from tokenward.rollout.sampler import GenerateSampler, Law
from tokenward.types import Batch, Rollout

LOGP = frozenset({"logp"})


@final
@dataclass(frozen=True)
class Evaluation:
    """Named estimates; standard errors count the texts of one prompt as one cluster.

    Of pairs: `accuracy` share of pairs with margin > 0 (a tie counts ½) · `margin` (reward units) · `longer_wins` the
    accuracy of "the longer answer is better", on the same pairs. Of prompts: `reward`, and `reward/…` its named parts ·
    `kl` Σ_t log π/π_ref on the model's own samples (nats) · `length` tokens, end token included · `cut` share of texts
    without an end token.
    """

    kind: Literal["pairs", "prompts"]
    numbers: dict[str, Estimate]

    def plain(self) -> dict[str, object]:
        """As JSON values: each number with its `_se`, and the counts."""
        found: dict[str, object] = {"kind": self.kind}
        for name, value in self.numbers.items():
            found |= {name: value.mean, f"{name}_se": value.se}
        first = next(iter(self.numbers.values()))
        return found | {"count": first.count, "prompts": first.clusters}

    def __str__(self) -> str:
        first = next(iter(self.numbers.values()))
        what = "pairs" if self.kind == "pairs" else "texts"
        lines = [f"{name:<14}{value}" for name, value in self.numbers.items()]
        return "\n".join([*lines, f"{first.count} {what}, {first.clusters} prompts; mean ± s.e., clustered by prompt"])


def evaluate(
    model: str,
    *,
    data: str,
    ref: str | None = None,
    reward: str | None = None,
    reward_timeout_s: float | None = None,
    beta: float = 0.1,
    samples: int = 1,
    max_new_tokens: int = 64,
    max_tokens: int | None = None,
    temperature: float = 1.0,
    split: str = "train",
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
) -> Evaluation:
    """Evaluate a model directory on a file of pairs, or on prompts that it answers itself.

    Pairs need `ref`, and a reward model none; prompts need `ref` for the KL and `reward` for the reward. What would
    not be read raises InputError.
    """
    tokenizer, scores = load.tokenizer(model), load.is_reward_model(model)
    if scores and ref is not None:
        raise InputError(f"{model} is a reward model: pairs are judged by its score alone; leave out --ref")
    if ref is not None:
        same_tokens(ref, tokenizer, what="--ref", remedy=SAME_BASE)
    judge = load_judge(reward, tokenizer=tokenizer, dtype=dtype, device=device, timeout_s=reward_timeout_s)
    policy = (load.reward_model if scores else load.policy)(model, dtype=dtype, device=device)
    limits = Limits(max_tokens=max_tokens or policy.context)
    found = dataset.survey(data, tokenizer=tokenizer, asked_by="eval", split=split, limits=limits)
    pairs = [example for example in found.examples if isinstance(example, Pair)]
    prompts = [example for example in found.examples if isinstance(example, Prompt)]
    if pairs and ref is None and not scores:
        raise InputError(f"{data} holds pairs: the implicit reward of {model} compares with a reference; give --ref")
    if pairs and reward is not None:
        raise InputError(f"{data} holds pairs, and --reward is of texts that the model writes; leave it out")
    if not pairs and not prompts:
        steps = any(isinstance(example, StepPair) for example in found.examples)
        what = "runs of a pipeline" if steps else found.schema.kind
        raise InputError(f"{data} holds {what}; eval reads pairs, or prompts that the model answers")
    if scores and not pairs:
        raise InputError(f"{model} is a reward model and writes no texts: give --data with pairs")
    reference, pad = None if ref is None else load.policy(ref, dtype=dtype, device=device), found.encoder.pad
    if pairs:
        return preferences(pairs, model=policy, reference=reference, beta=beta, pad_id=pad)
    ends, law = load.end_ids(policy, tokenizer), Law(temperature=temperature)
    sampler = GenerateSampler(policy, end_ids=ends, pad_id=pad, max_new_tokens=max_new_tokens, law=law, seed=seed)
    rollouts = sample(sampler, prompts, samples=samples, reward=judge)
    return completions(rollouts, policy=policy, reference=reference, pad_id=pad, temperature=temperature)


def sample(
    sampler: GenerateSampler, prompts: Sequence[Prompt], *, samples: int, reward: Reward | None = None
) -> list[Rollout]:
    """`samples` completions of each prompt, scored where there is a reward."""
    rollouts = [r for group in sampler.generate(prompts, group=samples, version=sampler.version) for r in group]
    return rollouts if reward is None else reward.score(rollouts, {prompt.id: prompt for prompt in prompts})


def completions(
    rollouts: Sequence[Rollout],
    *,
    policy: Scorer,
    reference: Scorer | None,
    pad_id: int,
    temperature: float = 1.0,
    micro_tokens: int = 16384,
) -> Evaluation:
    """Reward, KL to the reference, length of a policy's own samples."""
    if not rollouts:
        raise InputError("there is no completion to evaluate")
    owners = [r.prompt_id for r in rollouts]
    numbers: dict[str, Estimate] = {}
    scores = [total for r in rollouts if (total := r.total) is not None]
    if scores:
        numbers["reward"] = estimate(scores, clusters=owners)
    for name in sorted({part for r in rollouts for part in r.parts or {}}):
        numbers[f"reward/{name}"] = estimate([(r.parts or {})[name] for r in rollouts], clusters=owners)
    if reference is not None:
        batch = rollouts_batch([[r] for r in rollouts], pad_id=pad_id)
        ratio = log_ratios(policy, reference, batch, temperature=temperature, micro_tokens=micro_tokens)
        numbers["kl"] = estimate(ratio, clusters=owners)
    numbers["length"] = estimate([float(len(r.response_tokens)) for r in rollouts], clusters=owners)
    numbers["cut"] = estimate([float(r.finish == "length") for r in rollouts], clusters=owners)
    return Evaluation("prompts", numbers)


def preferences(
    pairs: Sequence[Pair],
    *,
    model: Scorer,
    reference: Scorer | None,
    beta: float,
    pad_id: int,
    micro_tokens: int = 16384,
) -> Evaluation:
    """How often the model prefers what people did: by implicit reward, or without a reference by its score head."""
    if not pairs:
        raise InputError("there is no pair to evaluate")
    batch = pairs_batch(pairs, pad_id=pad_id)
    if reference is None:
        scored = frozen.score(model, batch, frozenset({"model_score"}), micro_tokens=micro_tokens).model_score
        assert scored is not None  # asked for above
        worth = scored.tolist()
    else:
        worth = [beta * x for x in log_ratios(model, reference, batch, micro_tokens=micro_tokens)]
    owners: list[Hashable] = [pair.prompt.tokens for pair in pairs]
    margins = [win - lose for win, lose in zip(worth[::2], worth[1::2], strict=True)]
    longer = [float(len(pair.chosen.tokens) - len(pair.rejected.tokens)) for pair in pairs]
    return Evaluation(
        "pairs",
        {
            "accuracy": estimate(list(map(_won, margins)), clusters=owners),
            "longer_wins": estimate(list(map(_won, longer)), clusters=owners),
            "margin": estimate(margins, clusters=owners),
        },
    )


def log_ratios(
    policy: Scorer, reference: Scorer, batch: Batch, *, temperature: float = 1.0, micro_tokens: int = 16384
) -> list[float]:
    """Σ_t log π/π_ref of each row, in nats."""
    ours = frozen.score(policy, batch, LOGP, temperature=temperature, micro_tokens=micro_tokens).logp
    theirs = frozen.score(reference, batch, LOGP, temperature=temperature, micro_tokens=micro_tokens).logp
    assert ours is not None and theirs is not None  # asked for above
    found: list[float] = row_sum(ours.double() - theirs.double(), batch.mask).tolist()
    return found


def _won(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)
