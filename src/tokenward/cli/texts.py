"""Commands about texts, files and finished runs: `tokenward sample`, `eval`, `report`, `data`, `doctor`."""

from __future__ import annotations

import json
from typing import Any

from tokenward.cli.words import call, only
from tokenward.errors import InputError, nearest
from tokenward.train.flags import read_words


def sample(words: list[str]) -> int:
    """tokenward sample: one JSON object per text."""
    from tokenward.search.answers import answers

    for record in call(answers, words, of="sample") or ():
        print(json.dumps(record, ensure_ascii=False))
    return 0


def evaluate(words: list[str]) -> int:
    """tokenward eval."""
    from tokenward.diagnose.evaluate import evaluate as work

    as_json = "--json" in words
    found = call(work, [word for word in words if word != "--json"], of="eval")
    if found is not None:
        print(json.dumps(found.plain(), indent=2) if as_json else found)
    return 0


def report(words: list[str]) -> int:
    """tokenward report."""
    alone, flags = read_words(words)
    if "help" in flags:
        print("tokenward report RUN_DIR… --out PAGE.html [--title TEXT]")
        return 0
    only(flags, ("out", "title"), of="report")
    if "out" not in flags:
        raise InputError("report needs out: give --out PAGE.html")
    from tokenward.report.page import write_page

    print(write_page(alone, flags["out"], **({"title": flags["title"]} if "title" in flags else {})))
    return 0


def data(words: list[str]) -> int:
    """tokenward data check, show, graph; exit 2 when a run would refuse the file."""
    names = ("check", "show", "graph")
    if words[:1] in ([], ["--help"]):
        print("tokenward data check FILE --tokenizer T [flags]\ntokenward data show FILE --tokenizer T [flags]")
        print("tokenward data graph FILE [--split S] [--json]      pairs, or a world of the lab (one .json object)")
        return 0
    if words[0] not in names:
        raise InputError(f"data has no command {words[0]!r}.{nearest(words[0], names)}")
    if words[0] == "graph":
        return _graph(words[1:])
    from tokenward.diagnose.data.files import check_file, show_file

    rest = ["--file", *words[1:]] if words[1:] and not words[1].startswith("--") else words[1:]
    if words[0] == "show":
        print("\n\n".join("\n".join(row.lines()) for row in call(show_file, rest, of="data show") or ()))
        return 0
    found = call(check_file, rest, of="data check")
    if found is not None:
        print("\n".join(found.lines()))
    return 2 if found is not None and found.verdict else 0


def _graph(words: list[str]) -> int:
    from tokenward.data.files import no_split
    from tokenward.diagnose.data.comparisons import file_graph
    from tokenward.diagnose.data.world_graph import is_world, world_graph

    def graph(file: str, *, split: str = "train") -> Any:
        """What a file of pairs compares: prompts, answers, components, contradictions, and what the labels can fix.

        FILE holds pairs as `tokenward data check` knows them, or one JSON object with tau and prompts: a world of the
        lab, for which the spectra and the mass of answers never compared are told too. --json prints one object.
        """
        no_split(file, split)
        return world_graph(file) if is_world(file) else file_graph(file, split=split)

    rest = [word for word in words if word != "--json"]
    rest = ["--file", *rest] if rest and not rest[0].startswith("--") else rest
    if (found := call(graph, rest, of="data graph")) is not None:
        print(json.dumps(found.as_json(), indent=2) if "--json" in words else "\n".join(found.lines()))
    return 0


def doctor(words: list[str]) -> int:
    """tokenward doctor."""
    if words == ["--help"]:
        print("tokenward doctor")
        return 0
    if words:
        raise InputError(f"doctor takes no words, got {' '.join(words)}")
    from tokenward.train.directory import environment

    for name, value in environment().items():
        for part, text in value.items() if isinstance(value, dict) else [(name, value)]:
            print(f"{part:<16}{text}")
    return 0
