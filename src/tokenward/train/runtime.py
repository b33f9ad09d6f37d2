"""The process a run lives in: ranks, device, threads, seeds, and the signals that ask it to stop."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tokenward.errors import InputError
from tokenward.models.load import refuse_missing_gpu
from tokenward.train.config import RunConfig


@final
class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop, and what was reached is saved; `signal` is SIGINT or SIGTERM."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


@final
@dataclass(frozen=True)
class Runtime:
    """Where this process computes, and how many there are."""

    device: torch.device
    world_size: int = 1
    rank: int = 0

    def total(self, weights: Mapping[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        """The global weight of each term: the sum over ranks."""
        found = dict(weights)
        if self.world_size > 1:
            for value in found.values():
                torch.distributed.all_reduce(value)
        return found

    def share(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Local sum × world_size ÷ global weight (already divided): DDP averages gradients over ranks."""
        return loss * self.world_size


def start(config: RunConfig) -> Runtime:
    """The runtime of this process; several processes and a missing GPU are refused in one line."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        raise InputError(f"WORLD_SIZE is {world}, but a run is one process in this version: start it without torchrun")
    refuse_missing_gpu(config.device)
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    return Runtime(torch.device("cuda" if cuda else "cpu"))


@contextmanager
def session(config: RunConfig) -> Iterator[Runtime]:
    """Threads, seeds and deterministic algorithms as the run asks; what stood before comes back afterwards."""
    runtime = start(config)
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # it costs time and guards against nothing done here
    random.seed(config.seed)
    torch.manual_seed(config.seed)
    try:
        yield runtime
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        memory.fill_uninitialized_memory = fill


@final
class StopRequest:
    """The first SIGINT or SIGTERM since the run began; a second SIGINT raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM while a run is on; outside the main thread nothing is caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rng_state() -> tuple[dict[str, object], dict[str, Tensor]]:
    """The global generators: (JSON part: Python's and NumPy's, tensor part: torch's)."""
    version, state, gauss = random.getstate()
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": [version, list(state), gauss], "numpy": [name, list(map(int, keys)), *rest]}, tensors


def set_rng_state(numbers: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Put the global generators back where `rng_state` found them."""
    python: Any = numbers["python"]
    version, state, gauss = python
    random.setstate((version, tuple(state), gauss))
    if (legacy := numbers.get("numpy")) is not None:  # a checkpoint of before has none
        np.random.set_state(tuple(legacy))  # type: ignore[arg-type]
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
