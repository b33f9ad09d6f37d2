"""Faults in the checks of a run's health, in what is kept as its best, and in frontiers."""

from __future__ import annotations

from faults.fault import Fault

HELDOUT, HELDOUT_TESTS = "src/tokenward/train/heldout.py", ("tests/train/test_heldout.py",)
HEALTH_TESTS, FRONTIER = ("tests/diagnose/test_health.py",), ("tests/studies/test_frontier.py",)
HEALTH = [
    Fault("src/tokenward/objective/health/watch.py", "self._said |= {found.check.name for found in new}",
          "self._said |= set()", "a warning comes with every update", HEALTH_TESTS),
    Fault("src/tokenward/objective/health/checks.py", "self.reading(told) if told.sampled else None", "self.reading(told)",
          "a run that learns from a file is judged by its data's scores", HEALTH_TESTS),
    Fault("src/tokenward/objective/health/history.py", "return min(falls)", "return max(falls)",
          "one unlucky measurement is over-optimization", HEALTH_TESTS),
    Fault("src/tokenward/objective/health/metrics.py", "torch.where(mask, tokens * power[place], 0)", "torch.where(mask, tokens, 0)",
          "texts with the same words in another order are the same", HEALTH_TESTS),
    Fault("src/tokenward/objective/health/metrics.py", "gram = torch.where(inside, gram, _BASE).sort(-1).values", "gram = gram.sort(-1).values",
          "what a text copies from its prompt is its own repetition", HEALTH_TESTS),
    Fault("src/tokenward/train/heldout.py", "            self.sampler.load_state(self.start)\n", "",
          "each measurement draws other random numbers: a resumed run measures differently", HEALTH_TESTS),
    Fault(HELDOUT, 'columns["reward"] - self.beta * columns["kl"]', 'columns["reward"] + self.beta * columns["kl"]',
          "the best held-out model is the one furthest from its reference", HELDOUT_TESTS),
    Fault(HELDOUT, 'columns["proxy"] = self._scored(texts, self.proxy)', 'columns["proxy"] = -columns["reward"]',
          "the proxy is not the reward of training", HELDOUT_TESTS),
    Fault(HELDOUT, "row_sum(kl.double(), part.mask).cpu()", "100 * row_sum(kl.double(), part.mask).cpu()",
          "the KL of held-out texts is in other units", HELDOUT_TESTS),
    Fault(HELDOUT, 'text.finish == "length"', 'text.finish != "length"',
          "the share of held-out texts without an end is that of those with one", HELDOUT_TESTS),
    Fault(HELDOUT, "float(means.std(correction=1)) / math.sqrt(len(means))", "float(means.std(correction=1))",
          "a held-out standard error is a standard deviation", HELDOUT_TESTS),
    Fault(HELDOUT, "column.view(len(self.prompts), self.samples).mean(-1)", "column.view(self.samples, len(self.prompts)).mean(0)",
          "held-out means are taken across prompts", HELDOUT_TESTS),
    Fault(HELDOUT, "isinstance(one, Prompt))[: config.eval_prompts]", "isinstance(one, Prompt))",
          "more held-out prompts are measured than asked for", HELDOUT_TESTS),
    Fault("src/tokenward/sweep/frontier.py", 'if several else None', "if False else None",
          "the frontier of a method begins with another method's start model", ("tests/sweep/test_sweep.py",)),
    Fault("src/tokenward/train/best.py", 'found["eval/objective"] > kept["eval/objective"]', 'found["eval/objective"] < kept["eval/objective"]',
          "the first model stays the best", HEALTH_TESTS),
    Fault("src/tokenward/diagnose/health/overoptimization.py", "[d, -d * _slowed(d, form)]", "[d, -_slowed(d, form)]",
          "the fitted curve is not the published one", HEALTH_TESTS),
    Fault("src/tokenward/diagnose/measures/frontier.py", "inside = (left <= k) & (k < right)", "inside = left <= k",
          "a frontier goes on where nothing was measured", FRONTIER),
    Fault("src/tokenward/diagnose/measures/frontier.py", "torch.where(drawn > -torch.inf, drawn, torch.nan)", "drawn",
          "a band has no numbers where some draws have no point", FRONTIER),
    Fault("src/tokenward/diagnose/health/overoptimization.py", "within[0] <= found.value <= within[1]", "0 < found.value",
          "a maximum far from all points is told", HEALTH_TESTS),
    Fault("src/tokenward/folders.py", "        out.rename(former(out))\n", "        shutil.rmtree(out)\n",
          "a kill while the best model is replaced loses it", HEALTH_TESTS),
    Fault("src/tokenward/train/directory.py", 'flags={"out": str(out)}', "flags={}",
          "a copied run goes on in the run it was copied from", ("tests/train/test_resume.py",)),
    Fault("src/tokenward/lab/optima/best_of_n.py", "law / same * (", "law * (",
          "answers that tie share nothing", FRONTIER),
]  # fmt: skip
