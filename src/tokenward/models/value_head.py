"""A value head on the policy's own trunk as a file: what is left of a shared critic when the policy is saved."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tokenward.errors import InputError
from tokenward.models import load
from tokenward.models.forward import Scorer

FILE = "value_head.safetensors"


def save_value_head(scorer: Scorer, path: Path) -> None:
    """Write the head's weights; they belong to the trunk that they were trained on, and to no other."""
    if scorer.value_head is None:
        raise InputError(f"cannot save {path}: this model has no value head")
    draft = path.with_name(f"{path.name}.partial")
    save_file(
        {name: weight.detach().cpu().contiguous() for name, weight in scorer.value_head.state_dict().items()}, draft
    )
    draft.replace(path)


def load_value_head(scorer: Scorer, path: Path) -> Scorer:
    """Give a policy that has a value head the weights of a file."""
    assert scorer.value_head is not None  # it was loaded with one
    try:
        weights = load_file(path)
        with torch.no_grad():
            scorer.value_head.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{path} does not hold the value head of this model: {reason}") from error
    return scorer


def value_source(path: str) -> tuple[str, Path | None]:
    """Where the values of a directory lie: a critic's model; or a policy's, and the file of the head on its trunk."""
    folder = Path(path).expanduser()
    if (folder / FILE).is_file():
        return str(folder / "model"), folder / FILE
    own = str(folder / "critic") if (folder / "critic" / "config.json").is_file() else path
    if not load.is_reward_model(own):
        raise InputError(
            f"critic = {path} has learned no values: give the directory of a run with a critic, or a reward model"
        )
    return own, None


def value_model(path: str, *, dtype: str = "float32", device: str = "cpu") -> Scorer:
    """A model that has learned values: a run's critic, on its own trunk or on the policy's, or a reward model."""
    trunk, head = value_source(path)
    if head is None:
        return load.reward_model(trunk, dtype=dtype, device=device)
    policy = load.policy(trunk, dtype=dtype, device=device, value_head=True).requires_grad_(False)
    return load_value_head(policy, head)
