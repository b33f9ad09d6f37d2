"""Faults of the sweep runner and its tables, and of the methods in examples/recipes."""

from __future__ import annotations

from faults.fault import Fault

SWEEPS = ("tests/sweep/test_sweep.py",)
FOLDER = "src/tokenward/sweep"

SWEEP = [
    Fault(f"{FOLDER}/plan.py", "merged = {**settings, **grid, **own}", "merged = {**own, **settings, **grid}",
          "sweep: the grid wins over what a method says", SWEEPS),
    Fault(f"{FOLDER}/plan.py", '**point, "seed": seed, "threads": 1}', '**point, "seed": seeds[0], "threads": 1}',
          "sweep: every seed is the first one", SWEEPS),
    Fault(f"{FOLDER}/run.py", "elif not stopping:", "else:",
          "sweep: a job that was asked to stop counts as failed", SWEEPS),
    Fault(f"{FOLDER}/run.py", "while waiting and len(running) < jobs and", "while waiting and",
          "sweep: all jobs at once", SWEEPS),
    Fault(f"{FOLDER}/job.py", 'if not (folder / "measured.json").is_file():', "if True:",
          "sweep: a finished job is measured again", SWEEPS),
    Fault(f"{FOLDER}/results.py", 'torch.einsum("ds,sn,dn->d", *_weights(values, seed))',
          'torch.einsum("sn,dn->d", *_weights(values, seed)[1:]) / len(values)',
          "sweep: the interval draws prompts alone, no seeds", SWEEPS),
    Fault(f"{FOLDER}/page.py", "<li>{escape(one['job'])}: {escape(str(one['error']))}</li>",
          "<li>{escape(one['job'])}: {one['error']}</li>",
          "sweep: the page takes an error's text for HTML", SWEEPS),
    Fault("examples/recipes/bond.py", "return 2 * (1 - higher - ties / 2)", "return 2 * (1 - higher)",
          "bond: ties count as wins", ("tests/examples/test_tier_c.py",)),
]  # fmt: skip
