"""The tables of docs/credit.md: `python benchmarks/credit/tables.py docs`.

`pack world RESULTS.json …` keeps of results.json of `tokenward study credit`, one a seed, what the tables read, in
world.jsonl; `pack human RESULTS.json` that of human_spans.py, in human.json; `pack lab DATA.jsonl` the table of
`tokenward study credit-lab`, in lab.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tokenward.diagnose.measures.association import Interval
from tokenward.diagnose.truth.localization import ANY, Localization, from_json, shown
from tokenward.report.study_page import shown as cell
from tokenward.studies.study import read
from tokenward.trained.credit.words import ALL, FACTS, SCORES

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tables import markdown, refill  # noqa: E402  (benchmarks/tables.py)


def rounded(value: Any) -> Any:
    """Numbers to four digits behind the point."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def pack(what: str, *files: str) -> None:
    """What the tables read."""
    if what == "lab":
        (table,) = read(Path(files[0])).tables
        plain: Any = {"columns": table.columns, "rows": table.rows}
        (HERE / "lab.json").write_text(json.dumps(plain, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    kept = []
    for file in files:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        keys = ("tables", "pairs", "counts", "settings", "stages" if what == "world" else "seconds")
        kept.append(rounded({key: found[key] for key in keys if key in found}))
    name = "world.jsonl" if what == "world" else "human.json"
    (HERE / name).write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in kept), encoding="utf-8")


def world() -> list[dict[str, Any]]:
    """The records of the seeds."""
    return [json.loads(line) for line in (HERE / "world.jsonl").read_text(encoding="utf-8").splitlines()]


def over(seeds: Sequence[Interval]) -> str:
    """Mean of the seeds; in brackets the lowest and the highest end of their intervals."""
    return shown(Interval(fmean(s.value for s in seeds), min(s.low for s in seeds), max(s.high for s in seeds)))


def facts() -> str:
    """Wrong facts among stated facts: every score, every set of texts."""
    found = [{name: from_json(one["tables"][name]) for name in FACTS} for one in world()]
    lines = [[score, *(over([one[name].of(score).auc for one in found]) for name in FACTS)] for score in SCORES]
    counts = [
        ", ".join(f"{one[name].of(SCORES[0]).wrong}/{one[name].of(SCORES[0]).right}" for one in found) for name in FACTS
    ]
    return markdown(["AUC", *FACTS.values()], [*lines, ["wrong/right facts, by seed", *counts]])


def kinds() -> str:
    """Every kind of error among all tokens of texts with one injected error."""
    found = [from_json(one["tables"]["injected_all"]) for one in world()]
    return markdown(
        ["kind", "score", "AUC", "average precision", "by chance"],
        [
            [kind, score, *(over([getattr(one.of(score, error=kind), key) for one in found]) for key in ("auc", "ap")),
             f"{fmean(_share(one, kind) for one in found):.3f}"]
            for kind in ("contradiction", "repeat", "broken") for score in SCORES
        ],
    )  # fmt: skip


def sampled() -> str:
    """Every kind of error among all tokens of the SFT model's own texts, both writers."""
    names = [name for name in ALL if name != "injected_all"]
    found = [{name: from_json(one["tables"][name]) for name in names} for one in world()]
    head = ["any error", *(f"{ALL[name]}: {what}" for name in names for what in ("AUC", "average precision"))]
    lines = []
    for score in SCORES:
        cells = [over([getattr(one[name].of(score), key) for one in found]) for name in names for key in ("auc", "ap")]
        lines.append([score, *cells])
    return markdown(head, lines)


def second() -> str:
    """The second fact of a text."""
    found = [one["tables"]["second"] for one in world()]
    lines = []
    for score in SCORES:
        each = [from_json(one[score]) for one in found]
        cells = [over([one.of(when).auc for one in each]) for when in ("after", "alone")]
        lines.append([score, *cells, over([one.lead("alone").auc for one in each])])
    credit = ", ".join(
        f"{one['credit']['both']['mean']:.2f} against {one['credit']['only_second']['mean']:.2f} (difference "
        f"{one['credit']['difference']['mean']:.2f} ± {one['credit']['difference']['se']:.2f})" for one in found
    )  # fmt: skip
    table = markdown(["AUC", "after a wrong fact", "after a right one", "difference"], lines)
    return (
        f"{table}\n\nMean credit of the wrong second fact after a wrong and after a right first one, by seed: {credit}."
    )


def human() -> str:
    """Human spans by type of error."""
    one = json.loads((HERE / "human.json").read_text(encoding="utf-8"))
    found, moved = from_json(one["tables"]["found"]), from_json(one["tables"]["moved"])
    lines = []
    for kind in dict.fromkeys(line.error for line in found.found):
        for score in dict.fromkeys(line.score for line in found.found):
            line = found.of(score, error=kind)
            lines.append(
                [
                    f"{kind} ({line.wrong}/{line.right})",
                    score,
                    shown(line.auc),
                    shown(line.ap),
                    f"{_share(found, kind):.3f}",
                ]
            )
        if kind == ANY:
            line = moved.of("credit, true labels")
            lines.append(
                [
                    f"{kind}, marks moved",
                    "credit, true labels",
                    shown(line.auc),
                    shown(line.ap),
                    f"{_share(found, kind):.3f}",
                ]
            )
    table = markdown(["type (wrong/right tokens)", "score", "AUC", "average precision", "by chance"], lines)
    pairs = "; ".join(
        f"{name} {row['accuracy']:.3f} ± {row['accuracy_se']:.3f}" for name, row in one["tables"]["pairs"].items()
    )
    longer = one["tables"]["pairs"]["dpo"]
    return (
        f"{table}\n\nHeld-out pairs ranked as people did: {pairs}; \"the longer answer wins\" "
        f"{longer['longer_wins']:.3f} ± {longer['longer_wins_se']:.3f}."
    )  # fmt: skip


def lab() -> str:
    """Credit from N pairs in the lab."""
    one = json.loads((HERE / "lab.json").read_text(encoding="utf-8"))
    return markdown(one["columns"], [[cell(value) for value in row] for row in one["rows"]])


def _share(found: Localization, kind: str) -> float:
    line = next(one for one in found.found if one.error == kind)
    return line.wrong / (line.wrong + line.right)


TABLES: dict[str, Callable[[], str]] = {
    "facts": facts, "kinds": kinds, "sampled": sampled, "second": second, "human": human, "lab": lab,
}  # fmt: skip


def docs() -> dict[str, str]:
    """The tables of docs/credit.md by their marks."""
    return {mark: made() for mark, made in TABLES.items()}


if __name__ == "__main__":
    what, *files = sys.argv[1:] or [""]
    if what == "pack" and len(files) > 1:
        pack(*files)
    elif what == "docs":
        refill(HERE.parents[1] / "docs" / "credit.md", docs())
    elif what in TABLES:
        print(TABLES[what]())
    else:
        sys.exit(f"usage: tables.py pack world|human|lab FILE… | docs | {' | '.join(TABLES)}")
