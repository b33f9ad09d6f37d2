"""Faults of what says whether a number of each token finds the tokens that are wrong."""

from __future__ import annotations

from faults.fault import Fault

RANKING = "src/tokenward/lab/theory/ranking.py"
INTERVALS = "src/tokenward/diagnose/measures/intervals.py"
TRUTH = "src/tokenward/diagnose/truth"
TESTS = ("tests/diagnose/test_truth.py",)

TRUTHS = [
    Fault(RANKING, "(before - hits_before + until - hits_until) / 2", "until - hits_until",
          "AUC: equal scores count as lost", TESTS),
    Fault(RANKING, "new = ordered[1:] != ordered[:-1]", "new = torch.ones(len(ordered) - 1, dtype=torch.bool)",
          "equal scores are thresholds of their own, in the order of the file", TESTS),
    Fault(INTERVALS, "torch.randint(count, (draws, count), generator=random)",
          "torch.arange(count).expand(draws, count)", "the bootstrap draws every text once", TESTS),
    Fault(f"{TRUTH}/localization.py", "ends(a - b, level=level)", "ends(b - a, level=level)",
          "the lead of one score over another has the other sign", TESTS),
    Fault(f"{TRUTH}/localization.py", "k == error for k in table.wrong], dtype=torch.bool)\n        kept = labels |",
          "k == error for k in table.wrong], dtype=torch.bool)\n        kept = ~labels | labels |",
          "tokens of other types of error count as right", TESTS),
    Fault(f"{TRUTH}/injected.py", "rng.choice([value for value in values if value != word])", "rng.choice(values)",
          "a wrong fact may be the right one", TESTS),
    Fault(f"{TRUTH}/human.py", "(one, two) if winner == 1 else (two, one)", "(two, one) if winner == 1 else (one, two)",
          "human preferences are turned round", TESTS),
    Fault("src/tokenward/studies/credit.py", "pull * (1 - first[tree.levels[PLACE]].double())",
          "pull * (first[tree.levels[PLACE]].double() - 1)", "the first token's pull has the other sign",
          ("tests/studies/test_credit.py",)),
]  # fmt: skip
