"""Faults of the world of chains, of steps, and of what looks for the first wrong one."""

from __future__ import annotations

from faults.fault import Fault

WORLD = "src/tokenward/data/chains.py"
STEPS = "src/tokenward/trained/reasoning/steps.py"
CHAINS_TESTS = ("tests/trained/test_chains.py",)

CHAINS = [
    Fault(WORLD, "value = int(part[_RESULT]) if len(part) > _RESULT", "value = chain.values[done + 1] if len(part) > _RESULT",
          "chains: a step that follows from a wrong value counts as wrong", CHAINS_TESTS),
    Fault(WORLD, "place < len(wanted) and part[place] != wanted[place]", "0 < place < len(wanted) and part[place] != wanted[place]",
          "chains: a step need not go on from the last result", CHAINS_TESTS),
    Fault("src/tokenward/data/chain_rows.py", "{one: shift, two: -shift}", "{one: shift, two: shift}",
          "chains: two errors do not cancel", CHAINS_TESTS),
    Fault("src/tokenward/diagnose/lens/steps.py", "return sum(known, 0.0) if known else None", "return sum(known, 0.0) / len(known) if known else None",
          "steps: the credit of a step is a mean", CHAINS_TESTS),
    Fault(STEPS, '"later" if name else ""', 'FIRST if name else ""',
          "steps: later errors count as first ones", CHAINS_TESTS),
    Fault(STEPS, '"credit": ("credit", neg)', '"credit": ("credit", float)',
          "steps: low credit speaks for a step", CHAINS_TESTS),
    Fault("src/tokenward/trained/reasoning/bench.py", "after[every, batch.length - 1] = stats.model_score\n", "pass\n",
          "steps: the reward model's last gain is lost", CHAINS_TESTS),
    Fault("src/tokenward/trained/reasoning/choose.py", "range(0, len(prompt), n)", "range(0, len(prompt), most)",
          "best of n: only the first texts of a prompt are looked at", CHAINS_TESTS),
]  # fmt: skip
