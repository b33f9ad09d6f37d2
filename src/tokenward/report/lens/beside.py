"""The pages of texts token by token that stand beside a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from tokenward.report.lens.page import write_lens
from tokenward.report.records import ResultRecord

Links = Mapping[str, str]  # file of texts, without .jsonl -> its page's address from the report


def write_beside(report: Path, results: Sequence[ResultRecord]) -> list[Links]:
    """One page for each file of texts: `report.html` and `credit_dpo.jsonl` give `report_credit_dpo.html`."""
    links: list[Links] = []
    for i, result in enumerate(results):
        own = {}
        several = f"{i + 1}_" if len(results) > 1 else ""
        for name, rows in result.credit.items():
            path = report.with_name(f"{report.stem}_{several}{name}.html")
            write_lens(rows, path, title=f"{result.name}: {name.replace('_', ' ')}")
            own[name] = quote(path.name)
        links.append(own)
    return links
