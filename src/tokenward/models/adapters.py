"""LoRA adapters, through peft: added in place, switched off for the reference, merged for the saved model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tokenward.errors import InputError


def add_lora(model: nn.Module, *, rank: int, alpha: float, targets: tuple[str, ...] | None, seed: int) -> nn.Module:
    """Add adapters of ΔW = (alpha / rank)·B·A to a causal language model, in place, and return the PeftModel.

    B starts at 0, so adapter on = adapter off at the start; A is drawn from `seed`. `targets` are module names
    (None: every linear layer but the head). Biases and dropout are never added: with them "off" would not be the base.
    """
    import peft  # only where adapters are asked for: the import takes a second

    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise InputError("the model already carries a LoRA adapter: merge it first, or 'adapter off' is not its start")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=list(targets) if targets else "all-linear",
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft reads names that transformers is renaming
            torch.manual_seed(seed)
            wrapped = peft.get_peft_model(model, config)
    except ValueError as error:
        names = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise InputError(
            f"--lora-targets {' '.join(targets or ('all-linear',))} fit no layer of this model; "
            f"its linear layers: {', '.join(names)}"
        ) from error
    _refuse_shared_head(model)
    return wrapped


def has_adapters(module: nn.Module) -> bool:
    """Whether any layer carries a LoRA adapter."""
    return any(hasattr(layer, "lora_A") for layer in module.modules())


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Run the base model: every adapter of `module` off, and as it was afterwards (flags of gradient included)."""
    layers: list[Any] = [m for m in module.modules() if hasattr(m, "lora_A") and not m.disable_adapters]
    if not has_adapters(module):
        raise InputError("'adapter off' was asked of a model without adapters; give --lora-rank or another --ref")
    flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def merged(peft_model: nn.Module) -> nn.Module:
    """A causal language model W + (alpha / rank)·B·A, on a deep copy so that training can go on.

    Half-precision weights are merged and kept in float32: rounding back would lose most of a small update.
    """
    twin = copy.deepcopy(peft_model)
    if any(p.dtype in (torch.bfloat16, torch.float16) for p in twin.parameters()):
        twin = twin.float()
    return twin.merge_and_unload(safe_merge=True)  # type: ignore[operator,no-any-return]


def _refuse_shared_head(model: nn.Module) -> None:
    """A head tied to the embeddings cannot carry an adapter: merged, it would change the embeddings too."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    if tied and any(hasattr(m, "lora_A") for m in (head, embeddings) if m is not None):
        raise InputError("--lora-targets names the head or the embeddings, which this model shares: leave them out")
