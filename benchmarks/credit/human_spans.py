"""Do token credits find what people marked as wrong? `python benchmarks/credit/human_spans.py FILE MODEL OUT`.

FILE: FineGrainedRLHF's feedback (JSON lines, .gz too), read where it is; MODEL: a causal language model; OUT: a new
directory. Half of the questions train (SFT on their four answers, then DPO on true, random and swapped preferences),
the other half's first answers are measured: AUC and average precision by type of error into OUT/results.json. A run
that was interrupted goes on.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenward.data import dataset
from tokenward.data.tokenize import Limits, Pair
from tokenward.diagnose.evaluate import preferences
from tokenward.diagnose.lens.batches import batch_of
from tokenward.diagnose.lens.columns import Models, columns
from tokenward.diagnose.lens.rows import TokenRow
from tokenward.diagnose.lens.texts import read, texts
from tokenward.diagnose.lens.token_rows import token_rows
from tokenward.diagnose.truth.human import Question, read_questions
from tokenward.diagnose.truth.localization import Suspicion, localization, moved_marks, suspicion
from tokenward.errors import InputError
from tokenward.models import load
from tokenward.runlog import write_json
from tokenward.stages import Stages, one_thread

BETA, SEED, LONGEST = 0.1, 0, 512
SFT = {"updates": 62, "rows_per_update": 8, "learning_rate": 1e-3, "warmup_updates": 10, "schedule": "cosine"}
DPO = {"updates": 40, "rows_per_update": 16, "learning_rate": 3e-4, "warmup_updates": 10, "schedule": "linear"}
LABELS = {"dpo": "true labels", "dpo-random": "random labels", "dpo-swapped": "swapped labels"}
MICRO = 4096


def prepare(stages: Stages, questions: Sequence[Question]) -> dict[str, int]:
    """The files of rows; how many each holds."""
    train = [q for q in questions if not q.held_out]
    held = [q for q in questions if q.held_out]
    pairs = [pair for q in train for pair in q.pairs()]
    turned = set(random.Random(SEED).sample(range(len(pairs)), len(pairs) // 2))  # half exactly: no information
    swapped = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    files: dict[str, Sequence[dict[str, Any]]] = {
        "answers": [row for q in train for row in q.demonstrations()],
        "dpo": pairs,
        "dpo-random": [swapped[i] if i in turned else pair for i, pair in enumerate(pairs)],
        "dpo-swapped": swapped,
        "marked": [q.marked() for q in held],
        "held-pairs": [pair for q in held for pair in q.pairs()],
    }
    for name, rows in files.items():
        stages.write(f"{name}.jsonl", rows)
    return {name: len(rows) for name, rows in files.items()}


def train(stages: Stages, model: str) -> None:
    """SFT, and DPO from it on each kind of labels."""
    shared = {"max_tokens": LONGEST, "micro_tokens": MICRO}
    stages.train("sft", "sft", {**SFT, **shared, "model": model, "data": str(stages.file("answers.jsonl"))})
    for name in LABELS:
        given = {**DPO, **shared, "model": stages.model("sft"), "data": str(stages.file(f"{name}.jsonl"))}
        stages.train(name, "dpo", given, keywords={"beta": BETA})


def measured(stages: Stages) -> tuple[list[TokenRow], dict[str, Suspicion]]:
    """The held-out answers with the errors that people marked, and what each score says of their tokens."""
    tokenizer = load.tokenizer(stages.model("sft"))
    given = read(str(stages.file("marked.jsonl")), tokenizer=tokenizer, limits=Limits(max_tokens=LONGEST))
    batch, answers = batch_of(given.examples, pad_id=given.pad), texts(given, given.examples)
    found = {}
    for name in LABELS:
        models = Models(load.policy(stages.model(name)), load.policy(stages.model("sft")), micro_tokens=MICRO)
        found[name] = columns(models, batch, beta=BETA)
    rows = list(token_rows(answers, batch, found["dpo"], encoder=given.data.encoder))
    scores: dict[str, Suspicion] = {}
    for name, label in LABELS.items():
        table = (-found[name]["credit"]).tolist()
        starts = [len(text.prompt.tokens) for text in answers]
        scores[f"credit, {label}"] = [
            line[start : start + len(row.tokens)] for line, start, row in zip(table, starts, rows, strict=True)
        ]
    baselines = {"−log π_ref": "ref_logp", "entropy of the reference": "ref_entropy", "−log π, true labels": "logp"}
    return rows, scores | {label: suspicion(rows, name) for label, name in baselines.items()}


def accuracy(stages: Stages, name: str) -> dict[str, float]:
    """How many held-out pairs the policy's implicit reward ranks as people did, and how many "the longer one" does."""
    tokenizer = load.tokenizer(stages.model("sft"))
    source = str(stages.file("held-pairs.jsonl"))
    data = dataset.load(source, tokenizer=tokenizer, kind="pairs", limits=Limits(max_tokens=LONGEST))
    pairs = [example for example in data.examples if isinstance(example, Pair)]
    model, reference = load.policy(stages.model(name)), load.policy(stages.model("sft"))
    numbers = preferences(pairs, model=model, reference=reference, beta=BETA, pad_id=data.encoder.pad).numbers
    return {f"{key}{end}": getattr(numbers[key], part) for key in ("accuracy", "longer_wins")
            for end, part in (("", "mean"), ("_se", "se"))}  # fmt: skip


def tables(stages: Stages) -> dict[str, Any]:
    """Everything that results.json holds of the measurement."""
    rows, scores = measured(stages)
    missed = sum(row.wrong is None for row in rows)
    if missed:
        raise SystemExit(f"{missed} answers have tokens that are not those of the text")
    true = "credit, true labels"
    return {
        "found": localization(rows, scores).as_json(),
        "moved": localization(moved_marks(rows, seed=SEED), {true: scores[true]}).as_json(),
        "pairs": {name: accuracy(stages, name) for name in LABELS},
    }


def main(source: str, model: str, out: str) -> None:
    """Everything, into one directory."""
    questions = read_questions(Path(source))
    stages = Stages(Path(out), SEED, 1.0)
    stages.file("").mkdir(parents=True, exist_ok=True)
    with one_thread():
        counts = prepare(stages, questions)
        train(stages, model)
        results = {"counts": counts, "tables": stages.once("tables", lambda: tables(stages))}
    settings = {"beta": BETA, "sft": SFT, "dpo": DPO, "max_tokens": LONGEST, "seed": SEED, "model": Path(model).name}
    write_json(Path(out) / "results.json", {**results, "settings": settings, "seconds": stages.seconds})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python benchmarks/credit/human_spans.py FILE MODEL OUT")
    try:
        main(*sys.argv[1:])
    except (InputError, OSError) as error:
        sys.exit(f"human_spans.py: {error}")
