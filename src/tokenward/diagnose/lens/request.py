"""What `tokenward credit` is asked, and what that means: which models, at which β, and where each was taken from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from tokenward.diagnose.lens.run_directory import Trained, trained
from tokenward.errors import InputError
from tokenward.objective.recipe import Recipe

OWN = ("credit.jsonl", "credit.json", "credit.html")  # what the command writes
SENTENCE_ENDS = ".!?\n"  # what a run has that was given no other


@final
@dataclass(frozen=True)
class Request:
    """Values of every token of given texts: credit β·log π/π_ref, log-ratio, KL, entropies, and more where asked.

    `model`: a model or a run directory, which then tells the reference, β, the critic and the temperature unless they
    are given. `data`: pairs, answers (labeled, scored or not), whole dialogues, runs of a pipeline, or what `tokenward
    sample` printed. `critic` adds V(s_t); `reward` the score of each text; `--recipe NAME` with its keywords as flags
    the token rewards and advantages of its signal steps and its token weights, for which `guide` and `guide_ref` are
    read, and `sentence_ends` where it counts sentences: the characters that end one (absent: those of the run, or else
    . ! ? and a new line). `alternatives`: texts whose likeliest other tokens are kept, `top` of either model at each
    place. Writes `out`/credit.jsonl, credit.json and credit.html.
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
    sentence_ends: str | None = None
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
    """The models by path, β, temperature, ends of sentences; `said` has a line for each that a run directory told."""

    model: str
    ref: str | None
    beta: float | None
    critic: str | None
    value_head: str | None
    partner: str | None
    partner_ref: str | None
    temperature: float
    sentence_ends: str
    said: Mapping[str, str]


def meant(request: Request, recipe: Recipe | None) -> Meant:
    """The request with what the run directory says where nothing was given."""
    if request.sentence_ends is not None and not _sentences(recipe):
        raise InputError("sentence_ends is read by recipes that count sentences, such as drto: leave it out")
    run = trained(request.model)
    ref, beta = request.ref or run.reference, request.beta or run.beta
    critic = request.critic or run.critic
    value_head = None if critic is not None else run.value_head
    if ref is None and critic is None and value_head is None and recipe is None:
        raise InputError(f"credit of {request.model} compares with a reference: give --ref, or a run directory")
    if ref is None and beta is not None:
        raise InputError(f"beta = {beta:g} scales the log-ratio to a reference, and there is none: give --ref")
    if ref is not None and beta is None:
        lacks = "is a file, which is not run unasked, and the config has no number" if run.own_file else "has none"
        why = "" if run.recipe is None else f" ({run.recipe} of this run {lacks})"
        raise InputError(f"credit = β·log π/π_ref needs β{why}: give --beta, that of the loss the model learned from")
    partner = request.partner or run.partner
    partner_ref = request.partner_ref or (run.partner_reference if request.partner is None else None)
    if partner is None and (lost := request.partner_ref) is not None:
        raise InputError(f"partner_ref = {lost} is the reference of a partner, and there is none: give --partner")
    if partner is not None and ref is not None and partner_ref is None:
        raise InputError(f"credit of partner {partner} compares with a reference: give --partner-ref")
    ends = run.sentence_ends if request.sentence_ends is None else request.sentence_ends
    return Meant(
        run.model,
        ref,
        beta,
        critic,
        value_head,
        partner,
        partner_ref,
        request.temperature or run.temperature,
        SENTENCE_ENDS if ends is None else ends,  # "" is one sentence a turn
        _told(request, run, recipe),
    )


def _told(request: Request, run: Trained, recipe: Recipe | None) -> dict[str, str]:
    """A line for each thing that the run directory said, by its name."""
    if run.recipe is None:
        return {}
    found = {"ref": run.reference, "beta": run.beta, "critic": run.critic or run.value_head, "partner": run.partner}
    lines = {k: f"{k} = {value}" for k, value in found.items() if value is not None and not getattr(request, k)}
    if request.temperature is None and run.temperature != 1.0:
        lines["temperature"] = f"temperature = {run.temperature:g}"
    if _sentences(recipe) and request.sentence_ends is None and run.sentence_ends is not None:
        lines["sentence_ends"] = f"sentence_ends = {run.sentence_ends!r}"
    if recipe is None and run.own_file:
        lines["recipe"] = f"a file, which is not run unasked: --recipe {run.recipe} adds its rewards and token weights"
    return {name: f"from {Path(request.model) / 'config.yaml'} ({run.recipe}): {line}" for name, line in lines.items()}


def _sentences(recipe: Recipe | None) -> bool:
    """Whether the recipe counts sentences."""
    return recipe is not None and "segment" in recipe.needs


def claim(out: Path, *, own: tuple[str, ...] = OWN, by: str = "credit") -> None:
    """Make the directory; one that holds anything but an earlier output of the command is refused."""
    if out.exists() and not out.is_dir():
        raise InputError(f"out = {out} is a file: give a directory")
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    # A draft is `.credit.jsonl.…`; a directory is never an output.
    foreign = [name for name in names if not name.removeprefix(".").startswith(own) or (out / name).is_dir()]
    if foreign:
        raise InputError(f"out = {out} holds {foreign[0]}, which is no output of {by}: give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out = {out} cannot be made: {error.strerror}") from error
