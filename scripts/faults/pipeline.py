"""Faults of two models in one run: units, actors, the files of pipelines, the pipeline of the lab."""

from __future__ import annotations

from faults.fault import Fault

UNITS = ("tests/objective/test_units.py",)
RUNS = ("tests/train/test_two_models.py",)

PIPELINE = [
    Fault("src/tokenward/objective/terms.py",
          "total = unit_sum(row_sum(self.tokens(batch, stats), batch.mask), batch.unit)",
          "total = row_sum(self.tokens(batch, stats), batch.mask)",
          "units: the score of a pair is that of one step", UNITS),
    Fault("src/tokenward/objective/terms.py", "unit_sum(count(batch.mask, total.dtype), batch.unit)",
          "count(batch.mask, total.dtype)", "units: the mean divides by the tokens of one row", UNITS),
    Fault("src/tokenward/data/collate.py", "for names in (batch.unit, batch.group if scope",
          "for names in (None, batch.group if scope", "split parts the rows of a unit", UNITS),
    Fault("src/tokenward/models/actors.py", "rows = (actor == number).nonzero().squeeze(-1)",
          "rows = (actor == len(answers) - 1 - number).nonzero().squeeze(-1)",
          "actors: each model speaks for the other's rows", RUNS),
    Fault("src/tokenward/data/units.py", "pairs=torch.tensor(starts).view(-1, 2),",
          "pairs=torch.arange(2 * len(pairs)).view(-1, 2),",
          "a pair of runs names rows as if each run had one step", RUNS),
    Fault("src/tokenward/data/rows.py", "return messages[:start], _turns(items[start:],",
          "return messages[:-1], _turns(items[-1:],", "a dialogue is trained on in its last turn alone", RUNS),
    Fault("src/tokenward/train/cast.py", '(_frozen if config.learns == "model" else _learner)', "_learner",
          "a partner that should stay as it is learns", RUNS),
    Fault("src/tokenward/lab/solving/pipeline.py", "share = first / first.sum(0)",
          "share = torch.ones_like(first) / len(first)", "the best answer of the second model forgets who asks",
          ("tests/lab/test_pipeline.py",)),
]  # fmt: skip
