"""A world of the lab: a tree, its prompts with reference and reward, and the data that methods are given there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenward.lab.optima.graph import is_connected
from tokenward.lab.worlds.tree import Tree, grow

SamplerName = Literal["uniform", "reference", "policy", "policy-through", "target"]
Critic = Literal["exact", "zero"]
Optimizer = Literal["auto", "gradient", "adam"]
ON_POLICY: frozenset[str] = frozenset({"policy", "policy-through"})  # samplers that follow the current policy


@final
@dataclass(frozen=True)
class Labels:
    """P(i is preferred to j): (1−ε) σ((r_i − r_j)/T) + ε σ((r_j − r_i)/T), or the entries of a given matrix.

    `kind` "deterministic" is T → 0: 1 for the larger reward, ½ at ties, 0. A matrix, if given, stands alone.
    """

    temperature: float = 1.0
    noise: float = 0.0
    matrix: Float[Tensor, "L L"] | None = None
    kind: Literal["bradley-terry", "deterministic"] = "bradley-terry"

    def prefer(self, reward: Float[Tensor, " L"], pairs: Int[Tensor, "P 2"]) -> Float[Tensor, " P"]:
        """The probability that the first of each pair wins."""
        first, second = pairs.unbind(-1)
        if self.matrix is not None:
            return self.matrix[first, second]
        if self.kind == "deterministic":
            return (torch.sign(reward[first] - reward[second]) + 1) / 2
        p = torch.sigmoid((reward[first] - reward[second]) / self.temperature)
        return (1 - self.noise) * p + self.noise * (1 - p)


@final
@dataclass(frozen=True)
class Listed:
    """Pairs written out, with weights that sum to one."""

    pairs: Int[Tensor, "P 2"]
    weight: Float[Tensor, " P"]


@final
@dataclass(frozen=True)
class Samples:
    """`number` draws of each kind of given data (pairs with their labels, rows, demonstrations), from `seed`."""

    number: int
    seed: int = 0


@final
@dataclass(frozen=True)
class Prompt:
    """One prompt: the laws and rewards of its leaves, and how its data arise.

    `weight` is its share of all prompts · `sampler` the law of single responses · `pairs` which responses are compared
    ("sampler": two independent draws) · `guide` None: what DPO reaches in this world · `binary` P(desirable) of each
    leaf, None: σ(reward) · `demos` the law of demonstrations, None: π^τ · `group` the size of groups of rollouts, None:
    infinite · `samples` None: the population · `features` φ of each leaf, for policies π ∝ π_ref·exp(φ·θ), θ shared by
    the prompts; None: every policy.
    """

    ref: Float[Tensor, " L"]
    reward: Float[Tensor, " L"]
    weight: float = 1.0
    pairs: Literal["uniform", "sampler"] | Listed = "uniform"
    labels: Labels = Labels()
    sampler: SamplerName | Float[Tensor, " L"] = "reference"
    guide: Float[Tensor, " L"] | None = None
    critic: Critic = "exact"
    binary: Float[Tensor, " L"] | None = None
    demos: Float[Tensor, " L"] | None = None
    group: int | None = None
    samples: Samples | None = None
    features: Float[Tensor, "L F"] | None = None

    def on_policy(self) -> bool:
        """Whether single responses come from the current policy."""
        return isinstance(self.sampler, str) and self.sampler in ON_POLICY

    def sampler_law(self, policy: Float[Tensor, " L"], *, target: Float[Tensor, " L"]) -> Float[Tensor, " L"]:
        """The law of single responses, given the current policy's; the gradient goes through for "policy-through"."""
        if isinstance(self.sampler, Tensor):
            return self.sampler
        uniform = torch.full_like(self.ref, 1 / len(self.ref))
        laws = {"uniform": uniform, "reference": self.ref, "policy": policy.detach(), "policy-through": policy}
        return laws.get(self.sampler, target)


@final
@dataclass(frozen=True)
class World:
    """A tree and its prompts at temperature `tau`; `weight` sums to one; `optimizer` as in lab/solving/solve.py.

    `delimiters`: the tokens that end a sentence.
    """

    tau: float
    tree: Tree
    prompts: tuple[Prompt, ...]
    optimizer: Optimizer = "auto"
    delimiters: tuple[int, ...] = (0,)

    @property
    def weight(self) -> Float[Tensor, " X"]:
        given = torch.tensor([prompt.weight for prompt in self.prompts], dtype=torch.float64)
        return given / given.sum()

    @property
    def ref(self) -> Float[Tensor, "X L"]:
        return torch.stack([prompt.ref for prompt in self.prompts])

    @property
    def reward(self) -> Float[Tensor, "X L"]:
        return torch.stack([prompt.reward for prompt in self.prompts])

    @property
    def desirable(self) -> Float[Tensor, "X L"]:
        """P(desirable) of each leaf."""
        given = (torch.sigmoid(p.reward) if p.binary is None else p.binary for p in self.prompts)
        return torch.stack(list(given))

    @property
    def demos(self) -> Float[Tensor, "X L"]:
        """The law of demonstrations."""
        laws = zip(self.prompts, self.target, strict=True)
        return torch.stack([target if p.demos is None else p.demos for p, target in laws])

    @property
    def features(self) -> Float[Tensor, "X L F"] | None:
        """φ of each leaf; None where every policy is allowed."""
        given = [prompt.features for prompt in self.prompts if prompt.features is not None]
        return torch.stack(given) if given else None

    @property
    def target(self) -> Float[Tensor, "X L"]:
        """π^τ = π_ref·exp(r/τ)/Z."""
        return torch.softmax(self.ref.log() + self.reward / self.tau, dim=-1)

    @property
    def normalizer(self) -> Float[Tensor, " X"]:
        """τ log Z: the soft value of each prompt."""
        return self.tau * torch.logsumexp(self.ref.log() + self.reward / self.tau, dim=-1)


def compared(prompt: Prompt, law: Float[Tensor, " L"]) -> Listed:
    """The compared pairs and their weights; `law` is that of single responses, for pairs "sampler"."""
    if isinstance(prompt.pairs, Listed):
        return prompt.pairs
    number = len(prompt.ref)
    pairs = torch.cartesian_prod(torch.arange(number), torch.arange(number))
    if prompt.pairs == "uniform":
        return Listed(pairs, torch.full((number**2,), number**-2.0, dtype=torch.float64))
    weight = (law[:, None] * law).flatten()
    seen = weight.detach() > 0
    return Listed(pairs[seen], weight[seen])


def all_compared(prompt: Prompt, law: Float[Tensor, " L"]) -> bool:
    """Whether the comparisons link every two leaves."""
    if prompt.pairs == "uniform":
        return True
    if prompt.pairs == "sampler":
        return bool((law > 0).all())
    listed = prompt.pairs
    return is_connected(listed.pairs[listed.weight > 0], nodes=len(prompt.ref))


def default_world() -> World:
    """The built-in world: two prompts on a ragged tree of 15 leaves (vocabulary 3 with an end token, horizon 3)."""
    tree = grow(vocab=3, horizon=3, eos=2)
    n = torch.arange(tree.leaves, dtype=torch.float64)
    rewards = (torch.sin(2.3 * n) + 0.2 * tree.length, torch.cos(1.7 * n) - 0.1 * tree.length)
    refs = (torch.softmax(0.8 * torch.cos(1.1 * n), 0), torch.softmax(0.6 * torch.sin(0.9 * n + 1), 0))
    first, second = (Prompt(ref=ref, reward=reward) for ref, reward in zip(refs, rewards, strict=True))
    return World(0.7, tree, (Prompt(ref=first.ref, reward=first.reward, weight=2.0), second))
