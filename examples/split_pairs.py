"""Split preferences by a hash of the prompt: `python examples/split_pairs.py PAIRS.jsonl[.gz] OUT_DIR TOKENIZER MAX`.

Keeps the rows whose two conversations fit MAX tokens whole, and writes train.jsonl and heldout.jsonl (one row in five).
The hash is of the prompt, so no prompt stands on both sides, and the split never moves.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer


def main(pairs: str, out: str, tokenizer: str, limit: str) -> None:
    """Write both files and print how many rows there were, fit, and stand in each."""
    data = Path(pairs).read_bytes()
    lines = (gzip.decompress(data) if pairs.endswith(".gz") else data).decode("utf-8").splitlines()
    encode = AutoTokenizer.from_pretrained(tokenizer)
    kept: dict[str, list[str]] = {"train": [], "heldout": []}
    for line in lines:
        row = json.loads(line)
        if all(len(encode(row[key])["input_ids"]) < int(limit) for key in ("chosen", "rejected")):  # one is left to end
            prompt = row["chosen"].rpartition("\n\nAssistant:")[0]
            digest = int(hashlib.sha256(prompt.encode()).hexdigest(), 16)
            kept["heldout" if digest % 5 == 0 else "train"].append(line)
    Path(out).mkdir(parents=True, exist_ok=True)
    for name, rows in kept.items():
        Path(out, f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{len(lines)} rows, {sum(map(len, kept.values()))} fit {limit} tokens: ", end="")
    print(", ".join(f"{len(rows)} {name}" for name, rows in kept.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
