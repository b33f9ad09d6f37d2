"""Reference solutions of GSM8K against the answer checker: `python examples/gsm8k_answers.py GSM8K.jsonl OUT.jsonl`.

GSM8K.jsonl holds {"question", "answer"} rows whose answers end in `#### number`. Every reference solution must score 1,
and 0 once its number is changed. OUT.jsonl gets the questions as prompts with their `answer` column: a model is trained
or judged on them with `--reward answer:answer`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenward.data.tokenize import Prompt
from tokenward.rollout.rewards.answer import Answer
from tokenward.rollout.rewards.number import MARK, answer


def main(source: str, prompts: str) -> None:
    """Print how many answers parse, and how many solutions and changed solutions score 1."""
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()]
    check = Answer("answer").check
    right = wrong = 0.0
    unread = []
    for row in rows:
        gold = answer(row["answer"])
        if gold is None:
            unread.append(row["answer"].rpartition(MARK)[2])
            continue
        prompt = Prompt(0, (), row["question"], row)
        reasoning = row["answer"].rpartition(MARK)[0]
        right += check(row["answer"], prompt)[0]
        wrong += check(f"{reasoning}{MARK} {gold + 1}", prompt)[0]
    read = len(rows) - len(unread)
    print(f"{len(rows)} solutions, {read / len(rows):.2%} of the answers parse; not read: {unread or 'none'}")
    print(f"score of the reference solutions {right / read:.4f}, with another number {wrong / read:.4f}")
    lines = [json.dumps({"prompt": f"{row['question']}\n", "answer": row["answer"]}) for row in rows]
    Path(prompts).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
