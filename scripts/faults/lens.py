"""Faults in the token lens: which token a number is of, in which unit, and which errors are marked."""

from __future__ import annotations

from faults.fault import Fault

HERE = "src/tokenward/diagnose/lens"
ROWS = ("tests/diagnose/test_lens.py",)
SPANS = ("tests/diagnose/test_lens_spans.py",)
COMMAND = ("tests/cli/test_credit.py",)

LENS = [
    Fault(f"{HERE}/columns.py", '{"credit": beta * found["ratio"]}', '{"credit": found["ratio"]}',
          "credit in nats, without its β", ROWS),
    Fault(f"{HERE}/columns.py", "partial(columns, models, beta=beta) for", "partial(columns, voices[-1], beta=beta) for",
          "the last model of a pipeline speaks about the others' texts", ROWS),
    Fault(f"{HERE}/recipe_values.py", 'found["weight"] = units(batch) * recipe', 'found["weight"] = recipe',
          "token weights shrink as the texts get more", ROWS),
    Fault(f"{HERE}/token_rows.py", "start, size = len(text.prompt.tokens), len", "start, size = len(text.prompt.tokens) - 1, len",
          "every number of the lens stands one token late", ROWS),
    Fault(f"{HERE}/token_rows.py", "short(x) if own else None for x", "short(x) for x",
          "tokens of an environment have numbers", ROWS),
    Fault(f"{HERE}/token_rows.py", "mute[text.actor or 0]", "mute[0]",
          "a value that the partner has no critic for is 0", ROWS),
    Fault(f"{HERE}/run_directory.py", '_of_file(settings, folder) if ":" in name else ', "",
          "the file that a run names as its recipe is run unasked", COMMAND),
    Fault(f"{HERE}/spans.py", "if not character.isspace()]", "]",
          "white space that a tokenizer changes hides marked errors", SPANS),
    Fault(f"{HERE}/spans.py", '"" if number in silent else', "",
          "the name of an end token is read as text of the answer", SPANS),
    Fault(f"{HERE}/texts.py", 'if row.get("finish") == "length" and', "if False and",
          "a text that was cut is read back with an end token", ROWS),
    Fault(f"{HERE}/request.py", "not name.removeprefix", "False and not name.removeprefix",
          "credit overwrites what it did not make", COMMAND),
    Fault(f"{HERE}/texts.py", "replace(text, cut=True) if _is_cut(text, given.longest) else text", "text",
          "a text whose end did not fit is taken as whole", COMMAND),
    Fault(f"{HERE}/texts.py", "text, total in zip(rows, totals, strict=True) if total is None]", "text, total in zip(rows, totals, strict=True) if not rows]",
          "a text without a reward is left out in silence", COMMAND),
    Fault(f"{HERE}/record.py", '"sha256": load.fingerprint(trunk)', '"sha256": load.fingerprint(path)',
          "the critic of a run is hashed where it does not lie", COMMAND),
    Fault(f"{HERE}/spans.py", "if size is not None and end > size:", "if False:",
          "errors marked behind the end of a text are taken", SPANS),
    Fault(f"{HERE}/rows.py", "if type(value) is not kind:", "if not isinstance(value, kind):",
          "true is read as the number of a pair or a model", ("tests/diagnose/test_credit.py",)),
    Fault("src/tokenward/models/likely.py", "batch.mask[row].nonzero().squeeze(-1)", "batch.mask[row].nonzero().squeeze(-1) + 1",
          "alternatives are those of the next token", ROWS),
]  # fmt: skip
