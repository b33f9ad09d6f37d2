"""Worlds of the tests, and the theory's formulas written a second time in plain numpy, sharing no code with the lab."""

from __future__ import annotations

import itertools

import numpy as np

from tokenward.lab.worlds.world import World
from tokenward.lab.worlds.world_file import parse_world

# The fixture of the statements on UDRRA: a bandit of five responses.
REWARD = np.array([1.2, -0.4, 0.3, 2.0, -1.1])
REF = np.array([0.30, 0.25, 0.20, 0.05, 0.20])
TAU = 0.7
PI_TAU = np.array([0.550474, 0.046653, 0.101454, 0.287688, 0.013730])
V_TAU = 0.775101


def bandit(*, reward=REWARD, ref=REF, tau=TAU, **fields) -> World:
    """One prompt, one token per response."""
    prompt = {"ref": list(map(float, ref)), "reward": list(map(float, reward))}
    return parse_world({"tau": tau, "vocab": len(ref), "horizon": 1, "eos": None, "prompts": [prompt], **fields})


def sequences(vocab: int, horizon: int, eos: int | None) -> list[tuple[int, ...]]:
    """Every complete sequence, sorted."""
    found = set()
    for word in itertools.product(range(vocab), repeat=horizon):
        end = word.index(eos) + 1 if eos in word else horizon
        found.add(word[:end])
    return sorted(found)


def random_law(rng: np.random.Generator, n: int, *, spread: float = 1.0) -> np.ndarray:
    return softmax(spread * rng.normal(size=n))


def tree_world(
    *, vocab: int, horizon: int, eos: int | None, prompts: int = 1, tau: float = 0.7, seed: int = 0, **fields
) -> World:
    """Random references and rewards on a tree."""
    rng = np.random.default_rng(seed)
    n = len(sequences(vocab, horizon, eos))
    given = [
        {"weight": i + 1, "ref": random_law(rng, n).tolist(), "reward": rng.normal(size=n).tolist()}
        for i in range(prompts)
    ]
    return parse_world({"tau": tau, "vocab": vocab, "horizon": horizon, "eos": eos, "prompts": given, **fields})


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gibbs(ref, reward, tau):
    weight = np.asarray(ref) * np.exp(np.asarray(reward) / tau)
    return weight / weight.sum()


def kl(p, q):
    return float(np.sum(p * (np.log(p) - np.log(q))))


def tv(p, q) -> float:
    return 0.5 * float(np.abs(np.asarray(p) - np.asarray(q)).sum())


def laplacian(weight):
    off = weight - np.diag(np.diag(weight))
    return np.diag(off.sum(-1)) - off


def through(words, law) -> dict[tuple[int, ...], float]:
    """Probability of passing through each prefix (the whole sequence included)."""
    mass: dict[tuple[int, ...], float] = {}
    for word, p in zip(words, law, strict=True):
        for t in range(len(word) + 1):
            mass[word[:t]] = mass.get(word[:t], 0.0) + p
    return mass


def token_logs(words, law) -> list[list[float]]:
    """log P(token | prefix) along each sequence of a law."""
    mass = through(words, law)
    return [[float(np.log(mass[w[: t + 1]] / mass[w[:t]])) for t in range(len(w))] for w in words]


def myopic(words, ref, token_reward, beta) -> np.ndarray:
    """π(a|s) ∝ π_ref(a|s)·exp(Q^π(s,a)/β) with the unregularized Q^π, by recursion over prefixes.

    `token_reward`: {(prefix, token): reward}.
    """
    mass = through(words, ref)
    complete = set(words)
    step: dict[tuple[int, ...], dict[int, float]] = {}

    def value(prefix) -> float:
        if prefix in complete:
            return 0.0
        tokens = sorted({w[len(prefix)] for w in words if w[: len(prefix)] == prefix})
        q = np.array([token_reward.get((prefix, a), 0.0) + value((*prefix, a)) for a in tokens])
        p = softmax(np.log([mass[(*prefix, a)] / mass[prefix] for a in tokens]) + q / beta)
        step[prefix] = dict(zip(tokens, p, strict=True))
        return float(p @ q)

    value(())
    return np.array([np.prod([step[w[:t]][w[t]] for t in range(len(w))]) for w in words])


def outcome(words, reward) -> dict[tuple[tuple[int, ...], int], float]:
    """Token rewards of a reward at the end."""
    return {(w[:-1], w[-1]): float(r) for w, r in zip(words, reward, strict=True)}
