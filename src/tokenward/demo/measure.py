"""What the demo measures on held-out prompts: true reward, search, credit, and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tokenward.data import dataset, world
from tokenward.data.tokenize import Pair, Prompt
from tokenward.diagnose.evaluate import completions, preferences, sample
from tokenward.diagnose.lens.credit import finds, pieces, token_credit
from tokenward.diagnose.lens.rows import TokenRow
from tokenward.diagnose.measures.ceiling import Point, ceiling
from tokenward.diagnose.measures.intervals import Area, Estimate, estimate
from tokenward.models import load
from tokenward.models.forward import Scorer
from tokenward.rollout.rewards import FunctionReward, ModelReward, completion_text
from tokenward.rollout.sampler import GenerateSampler, Law
from tokenward.search.beam import beam_search
from tokenward.search.best_of_n import Best, best_of_n, kl_bound
from tokenward.search.language import LanguageProblem, Text, rollout
from tokenward.search.problem import Answer
from tokenward.types import Rollout

MAX_NEW_TOKENS = 40


def judge(prompts: list[str], texts: list[str], columns: list[dict[str, object]]) -> list[dict[str, float]]:
    """The world's true reward of each text, and how many of its tokens are wrong."""
    del columns  # the prompt's words state the facts
    found = [world.truth(prompt, world.words_of(text)) for prompt, text in zip(prompts, texts, strict=True)]
    return [{"score": truth.total, "errors": float(truth.errors)} for truth in found if truth is not None]


@final
@dataclass(frozen=True)
class Samples:
    """A policy's texts on held-out prompts with their true rewards, and the numbers of its row in the table."""

    rollouts: list[Rollout]
    numbers: dict[str, Estimate]

    def row(self, *, seconds: float) -> dict[str, float]:
        """The method's entry in summary.json."""
        n = self.numbers
        return {
            "reward": n["reward"].mean, "reward_se": n["reward"].se,
            "kl": n["kl"].mean, "kl_se": n["kl"].se,
            "error_rate": n["reward/errors"].mean, "error_rate_se": n["reward/errors"].se,
            "length": n["length"].mean, "seconds": seconds,
        }  # fmt: skip


@final
class Bench:
    """The held-out prompts, the SFT policy as reference, and the world's truth."""

    def __init__(self, sft: str, prompts: Path, *, seed: int) -> None:
        self.tokenizer = load.tokenizer(sft)
        self.reference = load.policy(sft).requires_grad_(False)
        data = dataset.load(str(prompts), tokenizer=self.tokenizer, kind="prompts")
        self.prompts = [example for example in data.examples if isinstance(example, Prompt)]
        self.named = {prompt.id: prompt for prompt in self.prompts}
        self.pad, self.ends = data.encoder.pad, load.end_ids(self.reference, self.tokenizer)
        self.truth = FunctionReward(judge, name="world", tokenizer=self.tokenizer)
        self.seed = seed

    def samples(
        self,
        policy: Scorer,
        *,
        prompts: Sequence[Prompt] | None = None,
        each: int,
        seed: int,
        law: Law | None = None,
    ) -> list[Rollout]:
        """Scored texts of a policy."""
        sampler = GenerateSampler(
            policy, end_ids=self.ends, pad_id=self.pad, max_new_tokens=MAX_NEW_TOKENS, law=law, rows=1024, seed=seed
        )
        return sample(sampler, self.prompts if prompts is None else prompts, samples=each, reward=self.truth)

    def measure(self, policy: Scorer, *, each: int) -> Samples:
        """`each` texts of the policy for each held-out prompt, with true reward, KL to SFT, errors and length."""
        rollouts = self.samples(policy, each=each, seed=self.seed + 1)
        numbers = completions(rollouts, policy=policy, reference=self.reference, pad_id=self.pad).numbers
        return Samples(rollouts, numbers)

    def search(self, policy: Scorer, *, judge: Scorer, n: int, width: int, count: int) -> dict[str, dict[str, Any]]:
        """Best of n and beam search with a policy on the first `count` held-out prompts.

        Best of n chooses by the reward model's score, and from the same samples by the policy's implicit reward. Its KL
        is an upper bound: Σ log π/π_sft of what was chosen + log n − (n−1)/n. A beam writes one text, so its KL is
        −log π_sft of it, exactly.
        """
        reward = ModelReward(judge, name="reward-model")
        problem = LanguageProblem(
            policy, end_ids=self.ends, pad_id=self.pad, max_new_tokens=MAX_NEW_TOKENS, reference=self.reference,
            reward=reward,
        )  # fmt: skip
        prompts = self.prompts[:count]
        ranks: dict[str, Best] = {"best_of_n": "reward", "best_of_n_implicit": "implicit"}
        found = {
            name: self._searched(
                best_of_n(problem, prompts, n=n, by=by, seed=self.seed + 2), extra=kl_bound(n), sampled=True
            )
            for name, by in ranks.items()
        }
        return found | {"beam": self._searched(beam_search(problem, prompts, width=width), extra=0.0, sampled=False)}

    def _searched(self, answer: Answer[Text], *, extra: float, sampled: bool) -> dict[str, float]:
        paths = [found.path for found in answer.found]
        rows = self.truth.score([rollout(path.state) for path in paths], self.named)
        rewards = estimate([float(row.score) for row in rows if row.score is not None])
        kl = estimate([(path.logp if sampled else 0.0) - (path.ref_logp or 0.0) + extra for path in paths])
        errors = estimate([(row.parts or {})["errors"] for row in rows])
        return {
            "reward": rewards.mean, "reward_se": rewards.se, "kl": kl.mean, "kl_se": kl.se, "error_rate": errors.mean,
            "length": sum(len(path.tokens) for path in paths) / len(paths), "tokens": answer.forwarded / len(paths),
        }  # fmt: skip

    def credit(self, policy: Scorer, texts: Sequence[Rollout], *, beta: float) -> tuple[Area, list[TokenRow]]:
        """How well a policy's implicit advantage finds wrong tokens of SFT texts, and the texts with their credit."""
        kept, kinds, slots = [], [], []
        for text in texts:
            marks = self.marks(text)
            if marks is not None:
                kept.append(text)
                kinds.append(marks[0])
                slots.append(marks[1])
        found = token_credit(policy, self.reference, kept, beta=beta, pad_id=self.pad)
        wrong = [tuple(bool(kind) for kind in row) for row in kinds]
        area = finds(found, wrong=wrong, slots=slots)
        rows = [
            TokenRow(self.named[text.prompt_id].text, pieces(self.tokenizer, text), {"credit": credit}, wrong=row)
            for text, credit, row in zip(kept, found, kinds, strict=True)
        ]
        return area, rows

    def marks(self, text: Rollout) -> tuple[tuple[str, ...], tuple[bool, ...]] | None:
        """(kind of error, whether the world could err) of each token; None where words are not tokens one to one."""
        words = world.words_of(completion_text(self.tokenizer, text.prompt_tokens, text.response_tokens))
        truth = world.truth(self.named[text.prompt_id].text, words)
        more = len(text.response_tokens) - len(words)  # the end token
        if truth is None or more != int(text.finish == "stop"):
            return None
        return tuple(kind or "" for kind in truth.kind) + ("",) * more, truth.slot + (False,) * more

    def ceiling(self, *, prompts: int, each: int) -> list[Point]:
        """The Gibbs ceiling from SFT samples on the first held-out prompts."""
        texts = self.samples(self.reference, prompts=self.prompts[:prompts], each=each, seed=self.seed + 3)
        rewards = [float(text.score) for text in texts if text.score is not None]
        return ceiling([rewards[i : i + each] for i in range(0, len(rewards), each)])

    def preferences(self, path: Path, models: Mapping[str, Scorer], *, judge_model: Scorer) -> dict[str, Any]:
        """Held-out preference accuracy of policies (implicit reward) and a reward model, beside "the longer wins"."""
        data = dataset.load(str(path), tokenizer=self.tokenizer, kind="pairs")
        pairs = [example for example in data.examples if isinstance(example, Pair)]
        named: dict[str, tuple[Scorer, Scorer | None]] = {name: (m, self.reference) for name, m in models.items()}
        named["reward_model"] = (judge_model, None)
        found: dict[str, Any] = {}
        for name, (model, reference) in named.items():
            numbers = preferences(pairs, model=model, reference=reference, beta=1.0, pad_id=self.pad).numbers
            found[name] = {"accuracy": numbers["accuracy"].mean, "accuracy_se": numbers["accuracy"].se}
            found["longer_wins"] = {"accuracy": numbers["longer_wins"].mean, "accuracy_se": numbers["longer_wins"].se}
        return found


def gap(one: Samples, two: Samples) -> Estimate:
    """Mean difference of true reward, one − two, over the prompts that both answered."""
    means = []
    for samples in (one, two):
        sums: dict[int, list[float]] = {}
        for text in samples.rollouts:
            sums.setdefault(text.prompt_id, []).append(float(text.score or 0.0))
        means.append({number: sum(values) / len(values) for number, values in sums.items()})
    return estimate([means[0][number] - means[1][number] for number in means[0]])
