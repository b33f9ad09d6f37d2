"""Model directories and hub names in, Scorers out: safetensors only, no remote code, one line per refusal."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from tokenward.errors import InputError, nearest
from tokenward.models.adapters import add_lora
from tokenward.models.forward import Scorer
from tokenward.models.quiet import quiet

# Weights are kept in the first type; the second is what the products run in (None: the same).
DTYPES: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "float32": (torch.float32, None),
    "float64": (torch.float64, None),
    "bfloat16": (torch.float32, torch.bfloat16),  # master weights stay float32: AdamW's steps vanish in bfloat16
}
DEVICES = ("cpu", "cuda")
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_CLASSIFIER = "ForSequenceClassification"


def tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or hub name; where it has no padding token, its end token pads.

    That is safe here: masks come from positions, never from token identity.
    """
    found = located(path)
    with _reading(path, "tokenizer"):
        tok = AutoTokenizer.from_pretrained(found, trust_remote_code=False)
    if tok.eos_token_id is None:
        raise InputError(f"the tokenizer of {path} has no end token (eos_token): a response could never stop")
    if tok.pad_token_id is None:
        tok.pad_token = tok.eos_token
    return tok


def policy(
    path: str,
    *,
    dtype: str = "float32",
    lora_rank: int = 0,
    lora_alpha: float = 16.0,
    lora_targets: tuple[str, ...] | None = None,
    value_head: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Scorer:
    """A causal language model as a Scorer, trained whole or (lora_rank > 0) through adapters.

    `dtype` "bfloat16" keeps float32 master weights and runs products in bfloat16; under LoRA the frozen base is
    stored in bfloat16 and the adapters in float32. `value_head` adds a head of zeros on the shared trunk. `seed`
    draws the adapters' A.
    """
    if lora_rank < 0:
        raise InputError(f"--lora-rank must be 0 (train all weights) or more, got {lora_rank}")
    storage, compute = _place(dtype, device)
    if lora_rank and compute is not None:
        storage = compute
    model = _causal_lm(path, storage).to(device)
    adapted = None
    if lora_rank:
        adapted = add_lora(model, rank=lora_rank, alpha=lora_alpha, targets=lora_targets, seed=seed)
    head = _zero_head(model.config, storage, device) if value_head else None
    return checked(scorer(model, value_head=head, compute=compute, peft=adapted), path)


def critic(path: str, *, dtype: str = "float32", device: str = "cpu") -> Scorer:
    """A value model on its own trunk: a reward model's head if `path` is one, else a head of zeros."""
    if is_reward_model(path):
        return reward_model(path, dtype=dtype, device=device).requires_grad_(True)
    storage, compute = _place(dtype, device)
    model = _causal_lm(path, storage).to(device)
    return Scorer(model.base_model, None, _zero_head(model.config, storage, device), compute=compute)


def reward_model(path: str, *, dtype: str = "float32", device: str = "cpu") -> Scorer:
    """A transformers SequenceClassification directory with one label, frozen; its score is `model_score`."""
    config = _config(path)
    if not is_reward_model(path):
        raise InputError(
            f"{path} is not a reward model: its architecture is {_architecture(config)}, wanted *{_CLASSIFIER}"
        )
    if config.num_labels != 1:
        raise InputError(f"{path} gives {config.num_labels} labels; a reward model gives 1")
    storage, compute = _place(dtype, device)
    with _reading(path, "reward model"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            located(path), use_safetensors=True, trust_remote_code=False, dtype=storage, output_loading_info=True
        )
    _refuse_missing(path, info)
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise InputError(f"{path} ({type(model).__name__}) has no linear `score` head on the last token's state")
    return Scorer(model.base_model, None, model.score, compute=compute).requires_grad_(False).to(device)


def scorer(
    model: nn.Module,
    *,
    value_head: nn.Module | None = None,
    compute: torch.dtype | None = None,
    peft: nn.Module | None = None,
) -> Scorer:
    """A Scorer around a transformers causal language model that is already in memory."""
    backbone: Any = model.base_model
    if backbone is model:
        raise InputError(f"{type(model).__name__} has no backbone under its head: not a causal language model")
    return Scorer(
        backbone,
        model.get_output_embeddings(),  # type: ignore[operator]
        value_head,
        causal_lm=model,
        peft=peft,
        compute=compute,
    )


def checked(candidate: Scorer, path: str) -> Scorer:
    """The Scorer, after comparing it with its own model on eight tokens: an unknown head scaling is refused.

    Also refuses a model whose earlier tokens see later ones.
    """
    ids = torch.arange(4, device=candidate.device).repeat(2, 1) % int(candidate.config.vocab_size)
    ids[1, -1] = 0
    with torch.no_grad(), candidate.autocast():
        whole = candidate.causal_lm(input_ids=ids, use_cache=False).logits.float()  # type: ignore[misc]
        ours = candidate.logits(candidate.backbone(input_ids=ids, use_cache=False).last_hidden_state).float()
    scale = float(whole.abs().max()) + 1.0
    gap = float((whole - ours).abs().max())
    if not gap <= (0.05 if candidate.compute is not None else 1e-3) * scale:
        raise InputError(
            f"{path} ({type(candidate.causal_lm).__name__}) changes its logits after the head in a way that is "
            f"not known here (largest difference {gap:.3g})"
        )
    if not torch.equal(whole[0, :3], whole[1, :3]):
        raise InputError(f"{path} is not causal: a later token changes the logits of earlier ones")
    return candidate


def end_ids(model: Scorer, tok: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every id that ends a response: the tokenizer's and those of the model's generation settings."""
    settings = getattr(model.causal_lm, "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    more = [] if found is None else [found] if isinstance(found, int) else list(found)
    return tuple(sorted({int(i) for i in [*more, tok.eos_token_id] if i is not None}))


def refuse_missing_gpu(device: str) -> None:
    """One line where a GPU is asked for and torch has none."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device = {device}, but torch sees no GPU here: leave it out or give --device cpu")


def is_reward_model(path: str) -> bool:
    """Whether a directory or hub name holds a SequenceClassification model."""
    return _architecture(_config(path)).endswith(_CLASSIFIER)


def fingerprint(path: str) -> str:
    """SHA-256 over a model's configuration and weight files; a hub model's commit where it has one."""
    folder = directory(path)
    if not folder.is_dir():
        return f"{path}@{getattr(_config(path), '_commit_hash', None)}"
    total = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        total.update(file.name.encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def located(path: str) -> str:
    """A usable local directory, of a run its model/, or a name the hub (or its cache) knows."""
    folder = directory(path)
    if folder.is_dir():
        if (folder / "adapter_config.json").exists():
            raise InputError(f"{path} holds a LoRA adapter: merge it into its base first, and give the merged model")
        if not (folder / "config.json").exists():
            if (folder / "config.yaml").is_file():
                raise InputError(f"{path} is a run that has not written its model: give a finished run")
            raise InputError(f"{path} has no config.json: not a model directory")
        return str(folder)
    if folder.exists():
        raise InputError(f"{path} is a file; give a model directory or a hub name")
    if not _HUB_NAME.fullmatch(path):
        raise InputError(f"no directory {path}")
    _ask_hub(path)
    return path


def directory(path: str) -> Path:
    """Where a model's files lie: of the directory of a run, in its model/; any other path is its own."""
    folder = Path(path).expanduser()
    run = not (folder / "config.json").exists() and (folder / "model" / "config.json").is_file()
    return folder / "model" if run else folder


def holds_tokenizer(path: str) -> bool:
    """A directory may hold weights alone, for the tokenizer of the policy; a hub name is looked up."""
    folder = directory(path)
    return not folder.is_dir() or any(folder.glob("tokenizer*")) or any(folder.glob("vocab*"))


def _ask_hub(name: str) -> None:
    """Refuse at once a name that is neither cached nor on the hub: the library itself retries for 20 seconds."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"no directory {name}, it is not in the hub's cache, and HF_HUB_OFFLINE is set")
    try:
        answer = get_session().get(f"{constants.ENDPOINT}/api/models/{name}", timeout=10)
    except Exception as error:  # the session's library differs between hub versions, and so do its errors
        raise InputError(
            f"no directory {name}, and the hub cannot be reached to look there ({type(error).__name__})"
        ) from error
    if answer.status_code in (401, 404):
        raise InputError(f"no directory {name}, and no such model on the hub (or it needs a login)")


def _causal_lm(path: str, storage: torch.dtype) -> Any:
    config = _config(path)
    if is_reward_model(path):
        raise InputError(f"{path} is a reward model without a language-model head; give a causal language model")
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{path} is an encoder-decoder model; give a causal language model")
    with _reading(path, "causal language model"):
        model, info = AutoModelForCausalLM.from_pretrained(
            located(path), use_safetensors=True, trust_remote_code=False, dtype=storage, output_loading_info=True
        )
    _refuse_missing(path, info)
    return model


def _config(path: str) -> Any:
    found = located(path)
    with _reading(path, "configuration"):
        return AutoConfig.from_pretrained(found, trust_remote_code=False)


def _architecture(config: Any) -> str:
    return str((getattr(config, "architectures", None) or ["unknown"])[0])


def _place(dtype: str, device: str) -> tuple[torch.dtype, torch.dtype | None]:
    if not re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", device):
        raise InputError(f"unknown device {device!r}.{nearest(device, DEVICES)}")
    refuse_missing_gpu(device)
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}.{nearest(dtype, DTYPES)}")
    return DTYPES[dtype]


def _zero_head(config: Any, storage: torch.dtype, device: str) -> nn.Linear:
    dtype = torch.promote_types(storage, torch.float32)
    head = nn.Linear(config.get_text_config().hidden_size, 1, bias=False, dtype=dtype, device=device)
    nn.init.zeros_(head.weight)
    return head


def _refuse_missing(path: str, info: dict[str, Any]) -> None:
    for kind in ("missing_keys", "mismatched_keys"):
        names = sorted(str(name) for name in info[kind])
        if names:
            raise InputError(f"{path}: {len(names)} weights are {kind[:-5]} in its files, the first is {names[0]}")


@contextmanager
def _reading(path: str, what: str) -> Iterator[None]:
    """Turn the library's long errors into one line."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        folder = directory(path)
        hint = ""
        if folder.is_dir() and not any(folder.glob("*.safetensors")):
            hint = " (no .safetensors file in it; weights in pickle form are not read)"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot read the {what} of {path}{hint}: {reason}") from error
