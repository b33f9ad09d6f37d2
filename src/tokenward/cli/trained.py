"""The studies that train small models for minutes: language-model, ask-then-answer, calculator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenward.train.settings import arguments


def _language_model(**keywords: Any) -> None:
    from tokenward.trained.language_model.story import study

    study(**keywords)


def _reference_runs(**keywords: Any) -> None:
    from tokenward.trained.reference.story import study

    study(**keywords)


def _credit(**keywords: Any) -> None:
    from tokenward.trained.credit.story import study

    study(**keywords)


def _world(name: str) -> Callable[..., None]:
    def work(**keywords: Any) -> None:
        from tokenward.trained.agents.story import study

        study(name, **keywords)

    return work


def _chains(**keywords: Any) -> None:
    from tokenward.trained.reasoning.story import study

    study(**keywords)


def _search(**keywords: Any) -> None:
    from tokenward.trained.search.story import study

    study(**keywords)


def _two_models(**keywords: Any) -> None:
    from tokenward.trained.pipeline.story import study

    study(**keywords)


TRAINED: dict[str, Callable[..., None]] = {
    "language-model": _language_model,
    "ask-then-answer": _world("ask-then-answer"),
    "calculator": _world("calculator"),
    "credit": _credit,
    "chains": _chains,
    "two-models": _two_models,
    "search": _search,
    "reference-runs": _reference_runs,
}


def trained(name: str, flags: dict[str, str]) -> int:
    """Run one of them, or go on with it, and draw its page."""
    from tokenward.report.study_page import write_study
    from tokenward.studies.study import read

    def work(*, out: str = "runs/studies", seed: int = 0, scale: float = 1.0) -> Path:
        folder = Path(out) / name
        TRAINED[name](out=str(folder), seed=seed, scale=scale)
        return folder

    made: Callable[..., Path] = work
    folder = made(**arguments(made, flags, of=f"study {name}"))
    found = read(folder / "data.jsonl")
    print(f"{name}: {len(found.claims) - len(found.failed)} of {len(found.claims)} claims hold")
    print("".join(f"  does not hold: {claim.text}\n" for claim in found.failed), end="")
    print(write_study(folder))
    return 1 if found.failed else 0
