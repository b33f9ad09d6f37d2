"""Sampling with transformers' `generate`, under a law that is known exactly.

`generate` is run greedily over scores that leave one token alive: ours, drawn by inverse CDF from the law below, with
its log-probability written down. So what is recorded is what was sampled, and the random state can be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models.adapters import adapters_off
from tokenward.models.forward import Scorer
from tokenward.rollout.mixture import Mixture, SecondModel
from tokenward.types import Rollout


@final
@dataclass(frozen=True)
class Law:
    """softmax(logits / temperature), cut to its `top_k` likeliest tokens, then to the fewest with mass ≥ `top_p`,
    each time renormalized over the kept set. temperature 0 is the likeliest token, with log-probability 0.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature must be 0 (greedy) or above, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k must be 1 or more, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def logp(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Log-probability of every token; −∞ outside the kept set."""
        if self.temperature == 0:
            best = torch.full_like(logits, -torch.inf)
            return best.scatter(-1, logits.argmax(-1, keepdim=True), 0.0)
        law = (logits / self.temperature).log_softmax(-1)
        if self.top_k is not None and self.top_k < law.shape[-1]:
            values, index = law.topk(self.top_k, dim=-1)
            law = torch.full_like(law, -torch.inf).scatter(-1, index, values).log_softmax(-1)
        if self.top_p is not None and self.top_p < 1:
            values, index = law.sort(dim=-1, descending=True, stable=True)
            before = values.exp().cumsum(-1) - values.exp()  # the first token is always kept
            values = values.masked_fill(before >= self.top_p, -torch.inf)
            law = torch.empty_like(law).scatter(-1, index, values).log_softmax(-1)
        return law

    def draw(
        self, logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]
    ) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
        """One token per row by inverse CDF at `uniform` ∈ [0, 1), and its log-probability.

        The sum runs in float64: in float32 the tail of a large vocabulary would be drawn by rounding.
        """
        law = self.logp(logits)
        mass = law.exp().double().cumsum(-1)
        # right=True: the first token whose sum is above u, so a token of probability 0 is never drawn
        token = torch.searchsorted(mass, (uniform.double() * mass[:, -1]).unsqueeze(-1), right=True)
        token = token.clamp(max=law.shape[-1] - 1)
        return token.squeeze(-1), law.gather(-1, token).squeeze(-1)


@final
class GenerateSampler:
    """Samples completions from the module that trains (LoRA adapters on), `rows` at a time.

    adapters "off": from the model without them · `mixture`: from the geometric mean with another model, token by token.
    `end_ids` stop a row and belong to its response; `pad_id` only fills. The random numbers of a call are drawn
    before it starts, so the generator's state depends on how many rows were asked, never on when they stopped.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        end_ids: Sequence[int],
        pad_id: int,
        max_new_tokens: int,
        law: Law | None = None,
        rows: int = 64,
        seed: int = 0,
        adapters: Literal["on", "off"] = "on",
        mixture: Mixture | None = None,
    ) -> None:
        if scorer.causal_lm is None:
            raise InputError("a sampler needs a causal language model; this one has no language-model head")
        if max_new_tokens < 1 or rows < 1:
            raise InputError(f"max_new_tokens and rows must be 1 or more, got {max_new_tokens} and {rows}")
        self.scorer, self.end_ids, self.pad_id = scorer, frozenset(end_ids), pad_id
        self.max_new_tokens, self.rows, self.law = max_new_tokens, rows, law or Law()
        self.adapters: Literal["on", "off"] = adapters
        self.mixture = mixture
        self.version = 0
        self._random = torch.Generator().manual_seed(seed)

    def generate(self, prompts: Sequence[Prompt], *, group: int, version: int) -> Iterator[list[Rollout]]:
        """Whole groups: for each prompt, in order, a list of `group` completions."""
        self.check(prompts, group)
        wanted = [prompt for prompt in prompts for _ in range(group)]
        waiting: list[Rollout] = []
        for start in range(0, len(wanted), self.rows):
            waiting += self._batch(wanted[start : start + self.rows], version)
            while len(waiting) >= group:
                yield waiting[:group]
                waiting = waiting[group:]

    def push(self, weights: Mapping[str, Tensor] | None, version: int) -> None:
        """Note the version: this sampler reads the very parameters that train, so there is nothing to copy."""
        del weights
        self.version = version

    def close(self) -> None:
        """Nothing is held open."""

    def state(self) -> dict[str, str | int]:
        """The random state and the version, as JSON values."""
        return {"random": bytes(self._random.get_state().tolist()).hex(), "version": self.version}

    def load_state(self, state: Mapping[str, str | int]) -> None:
        """Go on where `state` was taken."""
        raw = list(bytes.fromhex(str(state["random"])))
        self._random.set_state(torch.tensor(raw, dtype=torch.uint8))
        self.version = int(state["version"])

    def check(self, prompts: Sequence[Prompt], group: int) -> None:
        """One line for a prompt that is empty, or leaves too little room in the model's context."""
        if group < 1:
            raise InputError(f"group must be 1 or more, got {group}")
        limit = self.scorer.context
        for prompt in prompts:
            if not prompt.tokens:
                raise InputError(f"prompt {prompt.id} has no tokens: sampling needs at least a begin token")
            total = len(prompt.tokens) + self.max_new_tokens
            if limit is not None and total > limit:
                raise InputError(
                    f"prompt {prompt.id} has {len(prompt.tokens)} tokens; with --max-new-tokens {self.max_new_tokens} "
                    f"that is {total}, beyond the model's context of {limit}"
                )

    def metrics(self) -> dict[str, float]:
        """Nothing: what is known of single completions is in the rollouts."""
        return {}

    def _batch(self, prompts: list[Prompt], version: int) -> list[Rollout]:
        drawn, logp = self.write([prompt.tokens for prompt in prompts], self.uniform(len(prompts)))
        return [self._rollout(*row, version) for row in zip(prompts, drawn, logp, strict=True)]

    def uniform(self, rows: int) -> Float[Tensor, "M B"]:
        """Fresh random numbers for `rows` completions: one for each token that they may have."""
        return torch.rand(self.max_new_tokens, rows, generator=self._random, dtype=torch.float64)

    def seeds(self, rows: int, *, below: int) -> list[int]:
        """A fresh whole number for each of `rows` completions."""
        return [int(n) for n in torch.randint(below, (rows,), generator=self._random).tolist()]

    @torch.no_grad()
    def write(
        self, contexts: Sequence[Sequence[int]], uniform: Float[Tensor, "M B"]
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Up to M tokens after each context, one per random number, and their log-probabilities; noise after an end."""
        width = max(len(context) for context in contexts)
        tokens = torch.full((len(contexts), width), self.pad_id, dtype=torch.long)
        seen = torch.zeros_like(tokens)
        for row, context in enumerate(contexts):
            tokens[row, width - len(context) :] = torch.tensor(context)
            seen[row, width - len(context) :] = 1
        device = self.scorer.device
        second = None if self.mixture is None else self.mixture.begin(seen.to(device))
        one_token = _OneToken(self.law, uniform.to(device), second)
        model: Any = self.scorer.causal_lm
        settings = GenerationConfig(
            max_new_tokens=len(uniform),
            do_sample=False,
            eos_token_id=sorted(self.end_ids) or None,
            pad_token_id=self.pad_id,
        )
        bare = adapters_off(self.scorer) if self.adapters == "off" else nullcontext()
        with self.scorer.autocast(), bare, _bare_settings(model):
            model.generate(
                tokens.to(device),
                attention_mask=seen.to(device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([one_token]),
            )
        return torch.stack(one_token.drawn, 1).tolist(), torch.stack(one_token.logp, 1).tolist()

    def _rollout(self, prompt: Prompt, drawn: list[int], logp: list[float], version: int) -> Rollout:
        end = next((i for i, token in enumerate(drawn) if token in self.end_ids), None)
        length = len(drawn) if end is None else end + 1
        return Rollout(
            prompt_id=prompt.id,
            prompt_tokens=tuple(prompt.tokens),
            response_tokens=tuple(drawn[:length]),
            trainable=(True,) * length,
            logp=tuple(logp[:length]),
            finish="length" if end is None else "stop",
            version=version,
        )


@final
class _OneToken(LogitsProcessor):  # type: ignore[misc]
    """Leaves the drawn token alone in each row, and writes down what was drawn. Runs last: there is no other."""

    def __init__(self, law: Law, uniform: Float[Tensor, "M B"], second: SecondModel | None) -> None:
        self.law, self.uniform, self.second = law, uniform, second
        self.drawn: list[Tensor] = []
        self.logp: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        if self.second is not None:
            scores = self.second.mix(input_ids, scores)
        token, logp = self.law.draw(scores, self.uniform[len(self.drawn)])
        self.drawn.append(token)
        self.logp.append(logp)
        return torch.full_like(scores, -torch.inf).scatter(-1, token.unsqueeze(-1), 0.0)


@contextmanager
def _bare_settings(model: Any) -> Iterator[None]:
    """Hide the model's own generation settings: `generate` would fill ours up with its penalties and bans."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
