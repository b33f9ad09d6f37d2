"""Faults of reference diagnostics: what both models say of texts, the identities, the rules, the trainer's probe."""

from __future__ import annotations

from faults.fault import Fault

HERE, TESTS = "src/tokenward/diagnose/reference", ("tests/diagnose/test_reference.py",)

REFERENCE = [
    Fault("src/tokenward/models/two_laws.py", "mean_under(ref, ref - law),", "mean_under(law, law - ref),",
          "KL(π_ref‖π) is KL(π‖π_ref)", TESTS),
    Fault("src/tokenward/models/two_laws.py", "reference.logits(other) / temperature", "reference.logits(other)",
          "the reference is scored at temperature 1, whatever is asked", TESTS),
    Fault("src/tokenward/models/divergence.py", "values.masked_fill(share == 0, 0.0)", "values",
          "0 · log 0 is NaN", ("tests/models/test_forward.py", *TESTS)),
    Fault(f"{HERE}/identity.py", "limit(max(self.gap.clusters - 1, 1))", "4.0",
          "two texts are judged as many are", TESTS),
    Fault(f"{HERE}/findings.py", "if not all(one.kl.mean <= 1e-9 and one.back.mean <= 1e-9", "if any(one.kl.mean > 1e-9 or one.back.mean > 1e-9",
          "KLs that are no numbers are read as 0", TESTS),
    Fault(f"{HERE}/files.py", "cmp(here, there, shallow=False)", "False",
          "a copy of the training rows passes as held out", TESTS),
    Fault(f"{HERE}/texts.py", "order = torch.argsort((~batch.mask).to(torch.int8)", "order = torch.argsort(batch.mask.to(torch.int8)",
          "columns of a text begin with its prompt", TESTS),
    Fault(f"{HERE}/texts.py", "(sums - mean * counts)", "sums",
          "a token mean's error forgets the residuals", TESTS),
    Fault(f"{HERE}/identity.py", "-of.laws.back.sum(-1) if law", "-of.laws.kl.sum(-1) if law",
          "the reference's samples are held against the wrong KL", TESTS),
    Fault(f"{HERE}/measure.py", "seed=number * _APART", "seed=0",
          "the report samples policy and reference with the same random numbers", TESTS),
    Fault(f"{HERE}/mass.py", "if key not in owner:", "if True:",
          "a text that stands twice in the data counts twice", TESTS),
    Fault(f"{HERE}/findings.py", "or _below_reference(found, name):", "or False:",
          "any fall of chosen answers is called expected", TESTS),
    Fault("src/tokenward/train/probe.py", "kl = (laws.logp - laws.ref_logp).sum(-1), laws.back.sum(-1)",
          "kl = (laws.logp - laws.ref_logp).sum(-1), laws.kl.sum(-1)", "the probe logs the other KL", TESTS),
    Fault("src/tokenward/train/probe.py", "update % probe.every", "update % max(probe.every - 1, 1)",
          "the probe is looked at when it is not due", TESTS),
    Fault("src/tokenward/studies/reference.py", "chosen = 2 * mu * torch", "chosen = mu * torch",
          "the law of chosen answers does not sum to 1", TESTS),
]  # fmt: skip
