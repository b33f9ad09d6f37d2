"""Faults of placements, sentences, robust weights and losses that couple the batch."""

from __future__ import annotations

from faults.fault import Fault

OBJECTIVE = "src/tokenward/objective"
PLACED, ROBUST = ("tests/objective/test_placements.py",), ("tests/objective/test_robust.py",)
COUPLED, SENTENCES = ("tests/train/test_coupled.py",), ("tests/data/test_sentences.py",)

RTO = [
    Fault(f"{OBJECTIVE}/signal/placement.py", '"amax")', '"amin", include_self=False)',
          "Semi-RTO: a sentence's reward stands where a row has tokens that are not trainable", PLACED),
    Fault(f"{OBJECTIVE}/signal/placement.py", "return reward - torch.where(_at_end(batch), total", "return reward + torch.where(_at_end(batch), total",
          "RS-PPO: the sum is paid twice instead of taken back", PLACED),
    Fault(f"{OBJECTIVE}/signal/rewards.py", "return _add(signal, batch, self.coef * reward)", "return _add(signal, batch, reward)",
          "β_score is lost", PLACED),
    Fault(f"{OBJECTIVE}/signal/rewards.py", "        return _add(signal, batch, self.placement(reward, batch))",
          "        return _add(signal, batch, self.placement(self.coef * (stats.guide_logp - stats.guide_ref_logp), batch))",
          "the guide's clip is forgotten where its reward is placed", PLACED),
    Fault("src/tokenward/masking.py", "goes_on[:, 1:] = (mask & ~ends)[:, :-1]", "goes_on[:, 1:] = mask[:, :-1]",
          "sentences end only where the model stops writing", PLACED),
    Fault(f"{OBJECTIVE}/robust.py", "counted = int((level > self.radius).sum())", "counted = len(level)",
          "χ²: atoms of small losses are never left out", ROBUST),
    Fault(f"{OBJECTIVE}/robust.py", "(number if self.nominal == \"tokens\" else 1)", "1",
          "nominal weights do not count tokens", ROBUST),
    Fault(f"{OBJECTIVE}/robust.py", "return total / number, nominal / nominal.sum()", "return total, nominal / nominal.sum()",
          "an atom's loss is a sum: long answers are the worst", ROBUST),
    Fault("src/tokenward/train/update.py", 'if scope == "batch" and len(parts) > 1:', "if False:",
          "a loss that couples the batch is taken of each micro-batch alone", COUPLED),
    Fault("src/tokenward/train/coupled.py", "(known[name] * _of(slope, rows, like=known[name])).sum()", "known[name].sum()",
          "the second pass forgets the slopes of the whole loss", COUPLED),
    Fault("src/tokenward/data/sentences.py", "    found = found - encoder.control\n", "",
          "the name of a control token can end a sentence", SENTENCES),
]  # fmt: skip
