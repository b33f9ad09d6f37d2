"""What `tokenward credit` is asked, and what that means: which models, at which β, and where each was taken from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from tokenward.diagnose.lens.run_directory import Trained, trained
from tokenward.errors import InputError

OWN = ("credit.jsonl", "credit.json", "credit.html")  # what the command writes


@final
@dataclass(frozen=True)
class Request:
    """Values of every token of given texts: credit β·log π/π_ref, log-ratio, KL, entropies, and more where asked.

    `model`: a model or a run directory, which then tells the reference, β, the critic and the temperature unless they
    are given. `data`: pairs, answers (labeled, scored or not), whole dialogues, runs of a pipeline, or what `tokenward
    sample` printed. `critic` adds V(s_t); `reward` the score of each text; `--recipe NAME` with its keywords as flags
    the token rewards and advantages of its signal steps and its token weights, for which `guide` and `guide_ref` are
    read. `alternatives`: texts whose likeliest other tokens are kept, `top` of either model at each place. Writes
    `out`/credit.jsonl, credit.json and credit.html.
    """

    model: str
    data: str
    out: str
    ref: str | None = None
    beta: float | None = None
    critic: str | None = None
    partner: str | None = None
    partner_ref: str | None = None
    guide: str | None = None
    guide_ref: str | None = None
    reward: str | None = None
    reward_timeout_s: float | None = None
    alternatives: int = 200
    top: int = 5
    limit: int | None = None
    max_tokens: int | None = None
    max_prompt_tokens: int | None = None
    split: str = "train"
    temperature: float | None = None
    micro_tokens: int = 16384
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    device: Literal["cpu", "cuda"] = "cpu"

    def __post_init__(self) -> None:
        least = {"alternatives": 0, "top": 1, "limit": 1, "max_tokens": 2, "max_prompt_tokens": 1, "micro_tokens": 1}
        wrong = [
            f"{name} must be {bound} or more, got {value}"
            for name, bound in least.items()
            if (value := getattr(self, name)) is not None and value < bound
        ]
        wrong += [
            f"{name} must be above 0, got {value:g}"
            for name in ("beta", "temperature")
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf")
        ]
        if wrong:
            raise InputError("\n".join(wrong))


@final
@dataclass(frozen=True)
class Meant:
    """The models by path, β and temperature; `said` has a line for each that a run directory told."""

    model: str
    ref: str | None
    beta: float | None
    critic: str | None
    value_head: str | None
    partner: str | None
    partner_ref: str | None
    temperature: float
    said: tuple[str, ...]


def meant(request: Request, *, has_recipe: bool) -> Meant:
    """The request with what the run directory says where nothing was given."""
    run = trained(request.model)
    ref, beta = request.ref or run.reference, request.beta or run.beta
    critic = request.critic or run.critic
    value_head = None if critic is not None else run.value_head
    if ref is None and critic is None and value_head is None and not has_recipe:
        raise InputError(f"credit of {request.model} compares with a reference: give --ref, or a run directory")
    if ref is None and beta is not None:
        raise InputError(f"beta = {beta:g} scales the log-ratio to a reference, and there is none: give --ref")
    if ref is not None and beta is None:
        why = "" if run.recipe is None else f" ({run.recipe} of this run has none)"
        raise InputError(f"credit = β·log π/π_ref needs β{why}: give --beta, that of the loss the model learned from")
    partner = request.partner or run.partner
    partner_ref = request.partner_ref or (run.partner_reference if request.partner is None else None)
    if partner is not None and ref is not None and partner_ref is None:
        raise InputError(f"credit of partner {partner} compares with a reference: give --partner-ref")
    return Meant(
        run.model,
        ref,
        beta,
        critic,
        value_head,
        partner,
        partner_ref,
        request.temperature or run.temperature,
        tuple(_told(request, run)),
    )


def _told(request: Request, run: Trained) -> list[str]:
    """A line for each thing that the run directory said."""
    if run.recipe is None:
        return []
    found = {"ref": run.reference, "beta": run.beta, "critic": run.critic or run.value_head, "partner": run.partner}
    lines = [f"{name} = {value}" for name, value in found.items() if value is not None and not getattr(request, name)]
    if request.temperature is None and run.temperature != 1.0:
        lines.append(f"temperature = {run.temperature:g}")
    return [f"from {Path(request.model) / 'config.yaml'} ({run.recipe}): {line}" for line in lines]


def claim(out: Path, *, own: tuple[str, ...] = OWN, by: str = "credit") -> None:
    """Make the directory; one that holds anything but an earlier output of the command is refused."""
    if out.exists() and not out.is_dir():
        raise InputError(f"out = {out} is a file: give a directory")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in names if not name.removeprefix(".").startswith(own)]  # a draft is `.credit.jsonl.…`
    if foreign:
        raise InputError(f"out = {out} holds {foreign[0]}, which is no output of {by}: give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out = {out} cannot be made: {error.strerror}") from error
