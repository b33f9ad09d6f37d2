"""Openings of stories as prompts: `python examples/story_prompts.py STORIES.txt OUT_DIR`.

STORIES.txt holds stories with `<|endoftext|>` between them. Writes train.jsonl and heldout.jsonl of {"prompt": …}:
the first eight words of each story, once each, split by a hash of the text, so that the split never moves.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

WORDS = 8


def main(stories: str, out: str) -> None:
    """Write both files and print their sizes."""
    texts = Path(stories).read_text(encoding="utf-8").split("<|endoftext|>")[:-1]  # the last one is cut
    openings = dict.fromkeys(" ".join(text.split()[:WORDS]) for text in texts if len(text.split()) > 3 * WORDS)
    rows: dict[str, list[str]] = {"train": [], "heldout": []}
    for opening in openings:
        digest = int(hashlib.sha256(opening.encode()).hexdigest(), 16)
        rows["heldout" if digest % 5 == 0 else "train"].append(json.dumps({"prompt": opening}))
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, lines in rows.items():
        Path(out, f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(lines)} prompts")


if __name__ == "__main__":
    main(*sys.argv[1:])
