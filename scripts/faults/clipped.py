"""Faults of clipped and group-relative methods, and of what the lab says of them."""

from __future__ import annotations

from faults.fault import Fault

OBJECTIVE, RECIPES, LAB = "src/tokenward/objective", "src/tokenward/recipes", "src/tokenward/lab"
ROWS = ("tests/objective/test_clipped_rows.py", "tests/objective/test_identities_on_policy.py")
THEIRS = ("tests/objective/test_conformance.py", "tests/objective/test_identities_on_policy.py")
REST = ("tests/lab/test_on_policy.py",)

CLIPPED = [
    Fault(f"{OBJECTIVE}/links.py", "torch.where(target < 0, torch.minimum(loss, -target * self.dual), loss)", "torch.minimum(loss, -target * self.dual)",
          "dual clip: good tokens are bounded too", ROWS),
    Fault(f"{OBJECTIVE}/links.py", '(ratio > 1 + self.high) & (target > 0)}', '(ratio > 1 + self.high)}',
          "clip metrics count tokens whose gain is not cut", ROWS),
    Fault(f"{OBJECTIVE}/capped.py", "z.detach().clamp(max=math.log(self.cap))", "z.clamp(max=math.log(self.cap))",
          "CISPO: the gradient passes through the weight", ROWS),
    Fault(f"{OBJECTIVE}/capped.py", "clamp(max=math.log(self.cap))", "clamp(max=math.log(1 + self.cap))",
          "CISPO: the cap is an offset from 1", ROWS),
    Fault(f"{OBJECTIVE}/sequence_ratio.py", "whole[:, None] + logp - logp.detach()", "whole[:, None] + 0 * logp",
          "GSPO-token: no gradient", ROWS),
    Fault(f"{OBJECTIVE}/signal/overlong.py", "(length - (self.max_tokens - self.buffer)) / self.buffer", "(length - self.max_tokens) / self.buffer",
          "the penalty begins at the limit", ROWS),
    Fault(f"{OBJECTIVE}/signal/overlong.py", "count(batch.mask, dtype)", "batch.length.to(dtype)",
          "the penalty counts the prompt and the environment", ROWS),
    Fault(f"{OBJECTIVE}/signal/advantages.py", 'if self.std == "unbiased":', "if False:",
          "the unbiased std is the population's", THEIRS),
    Fault(f"{RECIPES}/group_relative.py", "beta_kl=beta_kl * share", "beta_kl=beta_kl",
          "Dr. GRPO: the budget divides the advantage alone", THEIRS),
    Fault(f"{RECIPES}/group_relative.py", 'score=LogRatio("old_logp", pool="mean")', 'score=LogRatio("old_logp")',
          "GSPO clips the product of the ratios", THEIRS),
    Fault(f"{LAB}/optima/fixed_points.py", "[1 / (1 - 1 / size) for size in sizes]", "[1 - 1 / size for size in sizes]",
          "a group mean makes a KL in the loss colder", REST),
    Fault(f"{LAB}/optima/fixed_points.py", "total = total - tree.outcome(step.penalty", "total = total + tree.outcome(step.penalty",
          "the lab pays for long answers", REST),
    Fault(f"{LAB}/optima/fixed_points.py", "return Prediction(note=NOTHING_PULLS if biased else ARGMAX)", "return Prediction(note=ARGMAX)",
          "arg max r is said of what is no policy gradient", REST),
    Fault(f"{LAB}/rates/curvature_terms.py", '"row" if term.score.pool == "sum" else "sequence_mean"', '"row"',
          "GSPO's rate forgets the lengths", REST),
]  # fmt: skip
