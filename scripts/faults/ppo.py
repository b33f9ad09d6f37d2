"""Faults in the steps that remember, in what stands beside rollouts, and in where scaled rewards rest."""

from __future__ import annotations

from faults.fault import Fault

MEMORY, RUNS = ("tests/objective/test_memory.py",), ("tests/train/test_ppo_runs.py",)
PPO = [
    Fault("src/tokenward/objective/signal/remembered.py", "return {name: memory[name] + statistics[name] for name in memory}",
          "return dict(statistics)", "running statistics forget all batches but the last", MEMORY),
    Fault("src/tokenward/objective/signal/remembered.py", '{"coef": memory["next"], "next"', '{"coef": memory["coef"], "next"',
          "the adaptive coefficient is never used", MEMORY),
    Fault("src/tokenward/objective/recipe.py", "memory=before, total=total)", "memory=before)",
          "statistics are those of one rank", MEMORY),
    Fault("src/tokenward/train/loop.py", "signals, place.memory = run", "signals, _ = run",
          "every batch is the first", RUNS),
    Fault("src/tokenward/train/state.py", 'remembered = dict(saved.tensors.get("memory", {}))', "remembered = {}",
          "a resumed run has forgotten its history", RUNS),
    Fault("src/tokenward/train/beside.py", "self.demos.load_state(state[\"demos\"])", "pass",
          "a resumed run begins its demonstrations anew", RUNS),
    Fault("src/tokenward/train/critic_first.py", "parameter.requires_grad_(False)", "pass",
          "a shared critic's first updates move the policy", RUNS),
    Fault("src/tokenward/lab/optima/remembered.py", "(n - m), s + 0.3 * (t - s))", "(n - m), s)",
          "the std of the reference for that of the policy", ("tests/lab/test_remembered.py",)),
    Fault("src/tokenward/objective/metrics.py", "held = (step.clamp(-link.clip, link.clip) - aim).abs() > (step - aim).abs()",
          "held = step.abs() > link.clip", "values beyond their clip that still have a gradient count as held", MEMORY),
]  # fmt: skip
