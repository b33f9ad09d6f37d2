"""The health of a run from its events: findings, over-optimization, the best model; as lines and as health.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tokenward.diagnose.health.overoptimization import FORMS, Fit, LengthGain, fit, length_gain
from tokenward.diagnose.measures.association import Interval
from tokenward.errors import InputError
from tokenward.folders import former, holds_model
from tokenward.objective.health.checks import CHECKS, Finding, Level
from tokenward.objective.health.history import History
from tokenward.runlog import read, write_json

FILE = "health.json"
ORDER: tuple[Level, ...] = ("bad", "watch", "ok", "unknown")
OFFLINE = (
    "no text was sampled: there are no on-policy checks. A policy against reference and data: "
    "tokenward diagnose --model {folder} --data D --out DIR"
)
POINT = ("update", "reward", "reward_se", "proxy", "kl", "objective", "length", "cut", "best")


@final
@dataclass(frozen=True)
class Health:
    """What is known of one run. `points` are its evaluations on held-out prompts, `eval/` left out of their names."""

    run: str
    updates: int
    findings: tuple[Finding, ...]
    warnings: tuple[dict[str, Any], ...]
    points: tuple[dict[str, float], ...]
    fits: dict[str, Fit]
    length: LengthGain | None
    offline: bool = False  # it learns from a file, and samples no text
    best_model: str | None = None
    folder: str | None = None

    @property
    def known(self) -> int:
        """Checks that could be read."""
        return sum(found.level != "unknown" for found in self.findings)

    @property
    def worst(self) -> Level:
        """The worst level of any check that could be read; "unknown" where none could."""
        return min((found.level for found in self.findings), key=ORDER.index)

    @property
    def best(self) -> dict[str, float] | None:
        """The first evaluation with the largest objective, of those that have one."""
        return max((p for p in self.points if "objective" in p), key=lambda p: p["objective"], default=None)

    def lines(self) -> list[str]:
        """For a terminal: what is bad and worth watching in full, the rest by name."""
        by_level = {level: [f for f in self.findings if f.level == level] for level in ORDER}
        found = [
            f"{self.run}: {self.worst} ({self.known} of {len(self.findings)} checks known; {self.updates} updates)"
        ]
        if self.offline:
            return [*found, f"  {OFFLINE.format(folder=self.folder or 'RUN_DIR')}"]
        told = [*by_level["bad"], *by_level["watch"]]
        found += [f"  {one.level:<6}{one.check.name}: {one.text}" for one in told]
        for words, rest in (("ok", by_level["ok"]), ("not known here", by_level["unknown"])):
            names = ", ".join(one.check.name for one in rest)
            found += [f"  {words}: {names}"] if names else []
        return [*found, *(f"  {line}" for line in self._gains())]

    def _gains(self) -> list[str]:
        found = []
        if self.length is not None:
            found.append(
                f"length: of the score's gain of {self.length.gain:.3g}, {self.length.by_length:.3g} goes with texts "
                f"that are {abs(self.length.longer):.1f} tokens {'longer' if self.length.longer >= 0 else 'shorter'}, "
                f"{self.length.adjusted:.3g} does not"
            )
        found += [f"{name} over √KL: {one}" for name, one in self.fits.items()]
        if (best := self.best) is not None:
            last = self.points[-1].get("objective")
            told = "no such number" if last is None else f"{last:.3g}"
            where = f": {self.best_model}" if self.best_model else ""
            found.append(
                f"best on held-out prompts: update {best['update']:.0f} with {best['objective']:.3g}, "
                f"the last has {told}{where}"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """The object of health.json (docs/health.md)."""
        held = None
        if self.points:
            best = None if self.best is None else self.best["update"]
            held = {
                "points": list(self.points), "best_update": best, "best_model": self.best_model,
                "fits": {name: _fit(one) for name, one in self.fits.items()},
            }  # fmt: skip
        length = None if self.length is None else {
            "gain": self.length.gain, "slope": self.length.slope, "longer": self.length.longer,
            "by_length": self.length.by_length, "adjusted": self.length.adjusted,
        }  # fmt: skip
        return {
            "run": self.run, "updates": self.updates, "worst": self.worst, "known": self.known,
            "findings": [_finding(one) for one in self.findings], "warnings": list(self.warnings),
            "held_out": held, "length": length,
        }  # fmt: skip


def health(run_dirs: Sequence[str | Path]) -> list[Health]:
    """The health of each run directory."""
    return [_read(Path(folder)) for folder in run_dirs]


def write(found: Health, path: str | Path) -> Path:
    """Write it as JSON; its path."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found.as_json())
    except OSError as error:
        raise InputError(f"diagnose: {path} cannot be written: {error.strerror}") from error
    return path


def of_events(
    name: str, events: Sequence[Mapping[str, Any]], *, best_model: str | None = None, folder: str | None = None
) -> Health:
    """The health that a list of events tells."""
    told = History(events)
    points = tuple(_point(event) for event in events if event.get("event") == "eval")
    return Health(
        run=name,
        updates=sum(event.get("event") == "update" for event in events),
        findings=tuple(check.find(told) for check in CHECKS),
        warnings=tuple(
            {key: value for key, value in e.items() if key != "event"} for e in events if e.get("event") == "warning"
        ),
        points=points,
        fits=_fits(points),
        length=length_gain(told),
        offline=not told.sampled,
        best_model=best_model,
        folder=folder,
    )


def _read(folder: Path) -> Health:
    if not (folder / "events.jsonl").is_file():
        raise InputError(f"diagnose: {folder} holds no run: there is no events.jsonl in it")
    kept = (folder / "best", former(folder / "best"))  # the second where a kill came while the first was replaced
    models = [str(best / "model") for best in kept if holds_model(best / "model")]
    events = read(folder / "events.jsonl")
    return of_events(folder.resolve().name, events, best_model=models[0] if models else None, folder=str(folder))


def _point(event: Mapping[str, Any]) -> dict[str, float]:
    named = {key.removeprefix("eval/"): value for key, value in event.items()}
    known = {key: named[key] for key in POINT if isinstance(named.get(key), int | float)}
    return {key: float(value) for key, value in known.items() if math.isfinite(value)}


def _fits(points: Sequence[Mapping[str, float]]) -> dict[str, Fit]:
    """The curve of reinforcement learning through the gains over the first point, which is the start model's."""
    found: dict[str, Fit] = {}
    if not points or points[0].get("update") != 0:
        return found
    for label, key in (("held-out reward", "reward"), ("proxy", "proxy")):
        known = [point for point in points if key in point and point.get("kl", -1.0) > 0]
        if key in points[0] and known:
            gains = [point[key] - points[0][key] for point in known]
            one = fit([math.sqrt(point["kl"]) for point in known], gains)
            found |= {label: one} if one is not None else {}
    return found


def _finding(found: Finding) -> dict[str, Any]:
    check = found.check
    return {
        "check": check.name, "level": found.level, "value": found.value, "watch": check.watch, "bad": check.bad,
        "side": check.side, "reads": list(check.reads), "number": check.number, "source": check.source,
        "means": check.means, "do": check.do,
    }  # fmt: skip


def _fit(found: Fit) -> dict[str, Any]:
    def three(one: Interval | None) -> list[float] | None:
        return None if one is None else [one.value, one.low, one.high]

    return {
        "form": FORMS[found.form], "alpha": three(found.alpha), "beta": three(found.beta), "left": found.left,
        "peak_root_kl": three(found.peak), "points": found.points,
    }  # fmt: skip
