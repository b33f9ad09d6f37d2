"""RunConfig: every setting of a run that is not the recipe's own, one flat set of names for Python, YAML and flags."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tokenward import ranges
from tokenward.errors import InputError
from tokenward.ranges import Range

T = TypeVar("T")
Scalar = str | int | float | None

GROUPS = ("model", "roles", "data", "rollout", "held out", "optimizer", "runtime", "log")


def option(
    default: T,
    help: str,
    *,
    group: str,
    least: int | float | None = None,
    most: int | float | None = None,
    above: int | float | None = None,
    used: Literal["always", "offline", "rollouts"] = "always",
) -> T:
    """A field with its help, its group, its range and the kind of run that reads it."""
    metadata = {"help": help, "group": group, "least": least, "most": most, "above": above, "used": used}
    found: T = field(default=default, metadata=metadata)
    return found


@dataclass(frozen=True)
class RunConfig:
    """The settings of one run. None means absent; units stand in the names; tokens are counted with the prompt."""

    model: str = option("", "causal LM: directory, run directory's model/ or hub name", group="model")
    tokenizer: str | None = option(None, "tokenizer directory or hub name (absent: the model's own)", group="model")
    dtype: Literal["float32", "bfloat16", "float64"] = option("float32", "number format of the weights", group="model")
    lora_rank: int = option(0, "rank of the LoRA adapters (0: all weights are trained)", group="model", least=0)
    lora_alpha: float | None = option(None, "LoRA scale (absent: 2 × rank)", group="model", above=0)
    lora_targets: str | None = option(None, "module names with adapters, comma separated", group="model")

    partner: str | None = option(
        None, "second model of a pipeline: what wrote the steps whose actor is partner",
        group="model", used="offline",
    )  # fmt: skip
    learns: Literal["both", "model", "partner"] = option(
        "both", "which of model and partner is trained", group="model", used="offline"
    )

    ref: str | None = option(None, "reference model (absent: the model as loaded)", group="roles")
    partner_ref: str | None = option(
        None, "reference of the partner (absent: the partner as loaded)", group="roles", used="offline"
    )
    guide: str | None = option(None, "guide model of rto, drto, distill: for example a DPO run's model/", group="roles")
    guide_ref: str | None = option(None, "reference of the guide (absent: the reference)", group="roles")
    critic: str | None = option(None, "critic: shared (a head on the policy), own (a copy) or DIR", group="roles")
    reward: str | None = option(
        None, "reward: file.py:function, a reward-model directory, answer:COLUMN …, or several with weights",
        group="roles", used="rollouts",
    )  # fmt: skip
    reward_timeout_s: float | None = option(
        None, "seconds that a reward function may take for a batch", group="roles", above=0, used="rollouts"
    )
    environment: str | None = option(
        None, "what answers the policy's turns: a built-in name or file.py:Name", group="roles", used="rollouts"
    )

    data: str = option("", "rows: file.jsonl, file.parquet or a datasets name", group="data")
    split: str = option("train", "split of a datasets name", group="data")
    demos: str | None = option(
        None, "demonstrations beside rollouts (ppo_max with ptx_coef): file or datasets name",
        group="data", used="rollouts",
    )  # fmt: skip
    order: Literal["shuffle", "file"] = option("shuffle", "order of the rows within a pass", group="data")
    max_tokens: int | None = option(None, "longest row, prompt included (absent: the context)", group="data", least=2)
    max_prompt_tokens: int | None = option(None, "longest prompt", group="data", least=1)
    sentence_ends: str = option(
        ".!?\n", 'characters that end a sentence, where a part counts sentences ("": one a turn)', group="data"
    )
    max_dropped: float = option(0.05, "largest share of unusable rows", group="data", least=0, most=1)

    rollout_rows: int = option(
        64, "completions sampled at a time (those of a recipe's further streams come on top)",
        group="rollout", least=1, used="rollouts",
    )  # fmt: skip
    group: int | None = option(
        None, "completions of a prompt (absent: the least the recipe takes)", group="rollout", least=1, used="rollouts"
    )
    max_rounds: int = option(
        10, "most prompts asked for a batch where equal scores are dropped, in batches",
        group="rollout", least=1, used="rollouts",
    )  # fmt: skip
    epochs: int = option(1, "passes over a batch of completions", group="rollout", least=1, used="rollouts")
    mini_rows: int | None = option(
        None, "completions per update (absent: rollout_rows)", group="rollout", least=1, used="rollouts"
    )
    demo_rows: int = option(8, "demonstrations per update", group="rollout", least=1, used="rollouts")
    max_new_tokens: int = option(64, "longest completion", group="rollout", least=1, used="rollouts")
    max_turns: int = option(8, "turns of an episode", group="rollout", least=1, used="rollouts")
    environment_seconds: float = option(
        60.0, "longest wait for an environment's answer", group="rollout", above=0, used="rollouts"
    )
    temperature: float = option(1.0, "divides the logits of policy and sampler", group="rollout", above=0)
    top_k: int | None = option(None, "sample from the k likeliest tokens", group="rollout", least=1, used="rollouts")
    top_p: float | None = option(
        None, "sample from the likeliest tokens of this mass", group="rollout", above=0, most=1, used="rollouts"
    )
    old_logp: Literal["trainer", "sampler"] = option(
        "trainer", "whose log-probs the ratio divides by", group="rollout", used="rollouts"
    )

    eval_data: str | None = option(
        None, "held-out prompts: the policy is measured on them as it trains, the best one is kept in best/",
        group="held out", used="rollouts",
    )  # fmt: skip
    eval_reward: str | None = option(
        None, "reward of held-out completions (absent: reward)", group="held out", used="rollouts"
    )
    eval_every: int = option(50, "updates between measurements", group="held out", least=1, used="rollouts")
    eval_prompts: int = option(128, "prompts, the first of the file", group="held out", least=2, used="rollouts")
    eval_samples: int = option(1, "completions of each", group="held out", least=1, used="rollouts")
    eval_beta: float = option(
        0.0, "the best has the largest held-out reward − eval_beta·KL", group="held out", least=0, used="rollouts"
    )

    learning_rate: float = option(1e-5, "learning rate of the policy", group="optimizer", above=0)
    critic_learning_rate: float | None = option(
        None, "learning rate of an own critic and of value and score heads (absent: learning_rate)",
        group="optimizer", above=0,
    )  # fmt: skip
    critic_warmup: int = option(
        0, "first updates in which only the critic learns", group="optimizer", least=0, used="rollouts"
    )
    schedule: Literal["constant", "linear", "cosine"] = option("constant", "after the warmup", group="optimizer")
    learning_rate_floor: float = option(
        0.0, "share of the learning rate left at the end of linear and cosine", group="optimizer", least=0, most=1
    )
    warmup_updates: int = option(0, "updates in which the learning rate rises", group="optimizer", least=0)
    weight_decay: float = option(0.0, "AdamW's weight decay", group="optimizer", least=0)
    adam_beta1: float = option(0.9, "AdamW's first moment", group="optimizer", least=0, most=0.9999)
    adam_beta2: float = option(0.999, "AdamW's second moment", group="optimizer", least=0, most=0.99999)
    grad_clip: float | None = option(
        1.0, "largest global gradient norm (null: no clipping)", group="optimizer", above=0
    )

    updates: int | None = option(None, "optimizer updates (instead of passes)", group="runtime", least=1)
    passes: float | None = option(None, "passes over the data (absent, without updates: 1)", group="runtime", above=0)
    rows_per_update: int = option(16, "units (pairs, or rows) per update", group="runtime", least=1, used="offline")
    micro_tokens: int = option(8192, "tokens of a micro-batch, padding included", group="runtime", least=1)
    seed: int = option(0, "seed of order, sampling and new weights", group="runtime", least=0, most=2**63 - 1)
    threads: int | None = option(None, "CPU threads (absent: torch's choice)", group="runtime", least=1)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute", group="runtime")

    out: str = option("", "run directory", group="log")
    log_every: int = option(10, "updates between printed lines where there is no terminal", group="log", least=1)
    probe_samples: int = option(
        0, "texts of the reference, made at the start, that show its KL to the policy (0: none)", group="log", least=0
    )
    probe_every: int = option(10, "updates between looks at these texts", group="log", least=1)
    save_every: int = option(100, "updates between checkpoints (0: only when interrupted)", group="log", least=0)
    keep_checkpoints: int = option(2, "newest checkpoints kept", group="log", least=1)

    def __post_init__(self) -> None:
        """Give every value its type, and raise every problem at once, one line each."""
        found = []
        for name, annotation in get_type_hints(RunConfig).items():
            try:
                value = coerce(name, getattr(self, name), annotation)
            except InputError as error:
                found.append(str(error))
            else:
                object.__setattr__(self, name, value)
                found += out_of_range(name, value)
        found += [f"{name} is missing: give --{flag(name)}" for name in REQUIRED if getattr(self, name) == ""]
        if self.updates is not None and self.passes is not None:
            found.append(f"updates ({self.updates}) and passes ({self.passes}) both say how long to train: give one")
        if found:
            raise InputError("\n".join(found))


OPTIONS: dict[str, Field[Any]] = {f.name: f for f in fields(RunConfig)}
REQUIRED = ("model", "data", "out")


def out_of_range(name: str, value: Scalar) -> list[str]:
    """One line when a number is outside its range, none otherwise."""
    meta = OPTIONS[name].metadata
    return Range(least=meta["least"], above=meta["above"], most=meta["most"]).wrong(name, value)


def flag(name: str) -> str:
    """The flag of a key: underscores become dashes."""
    return name.replace("_", "-")


def coerce(name: str, value: object, annotation: Any) -> Scalar:
    """The value as its annotation asks: text from flags and YAML becomes a number, a Literal and a range are checked.

    >>> coerce("beta", "1e-1", float)
    0.1
    """
    choices = allowed(annotation)
    if isinstance(value, str) and value.lower() in ("none", "null") and type(None) in choices:
        return None
    for kind in choices:
        fits, made = _fit(value, kind)
        if fits and (wrong := ranges.wrong(name, made)):
            raise InputError(*wrong)
        if fits:
            return made
    raise InputError(f"{name} must be {describe(annotation)}, got {value!r}")


def allowed(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone; text last, because everything is text."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(sorted(members, key=lambda member: member is str))


def _fit(value: object, kind: Any) -> tuple[bool, Scalar]:
    """(whether the value is of the kind, the value as that kind)."""
    if get_origin(kind) is Literal:
        return value in get_args(kind), value  # type: ignore[return-value]
    if kind is type(None):
        return value is None, None
    if isinstance(value, bool) or value is None:
        return False, None
    if kind not in _PARSERS or (kind is str and not isinstance(value, str)):
        return False, None
    try:
        return True, _PARSERS[kind](value)
    except (TypeError, ValueError, OverflowError):
        return False, None


def _whole(value: object) -> int:
    """An integer from 3, 3.0, "3" or "1e3"; ValueError or OverflowError otherwise."""
    if isinstance(value, int):
        return value
    number = int(value) if isinstance(value, str) and value.lstrip("+-").isdigit() else float(value)  # type: ignore[arg-type]
    if number != int(number):
        raise ValueError(value)
    return int(number)


_PARSERS: dict[type, Callable[[Any], Scalar]] = {int: _whole, float: float, str: str}


def describe(annotation: Any) -> str:
    """An annotation in words: `a number or null`."""
    words = {int: "a whole number", float: "a number", str: "text", type(None): "null"}
    parts = []
    for kind in allowed(annotation):
        literal = get_origin(kind) is Literal
        parts.append(" or ".join(repr(v) for v in get_args(kind)) if literal else words.get(kind, str(kind)))
    return " or ".join(sorted(parts, key=lambda part: part == "null"))


def make(values: Mapping[str, object]) -> RunConfig:
    """A RunConfig from known keys with values as a file or a flag gives them: text becomes a number where asked."""
    hints = get_type_hints(RunConfig)
    found: dict[str, Any] = {}
    wrong: list[str] = []
    for name, value in values.items():
        try:
            found[name] = coerce(name, value, hints[name])
        except InputError as error:
            wrong.append(str(error))
    unread: dict[str, Any] = {
        name: "?" for name in REQUIRED if name in values and name not in found
    }  # named already, not missing
    try:
        config = RunConfig(**found, **unread)
    except InputError as error:
        wrong += str(error).splitlines()
    if wrong:
        raise InputError("\n".join(wrong))
    return config
