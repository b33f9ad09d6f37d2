"""Faults of searches: what a tree search climbs by, what laws combine to, who is counted, who wins a vote."""

from __future__ import annotations

from faults.fault import Fault

SRC = "src/tokenward"
TREE, THEORY, FLAGS = "tests/test_mcts.py", "tests/test_search_theory.py", "tests/test_strategies.py"

SEARCH = [
    Fault(f"{SRC}/search/mcts.py", "node.prior * np.sqrt(1 + tried.sum()) / (1 + tried)", "node.prior * np.sqrt(tried.sum()) / (1 + tried)",
          "PUCT: the visit that opened a state does not count, so the prior does not decide at first",
          (f"{TREE}::test_the_rule_by_hand",)),
    Fault(f"{SRC}/search/mcts.py", "            node.waiting[move] -= 1", "            node.waiting[move] -= 0",
          "virtual loss is never taken back", (f"{TREE}::test_the_rule_by_hand",)),
    Fault(f"{SRC}/search/combined.py", "torch.zeros_like(base), proxy - ref)", "torch.zeros_like(base), ref - proxy)",
          "proxy tuning moves away from the proxy",
          (f"{FLAGS}::test_the_combination_is_the_formula_and_costs_three_models",)),
    Fault(f"{SRC}/search/guided.py", "logp, logp + q / eta).log_softmax(-1)", "logp, logp + q * eta).log_softmax(-1)",
          "guidance: a smaller η trusts the value less",
          (f"{THEORY}::test_guidance_by_the_soft_value_draws_from_the_optimum",)),
    Fault(f"{SRC}/search/beam.py", "        elif place < width:\n            ended.append(longer)", "        else:\n            ended.append(longer)",
          "a refilled beam takes ends that are not among the best",
          (f"{FLAGS}::test_a_refilled_beam_is_transformers_beam_search",)),
    Fault(f"{SRC}/lab/theory/beams.py", "prefix_sums(tree, reward + tau * ref_logp)", "prefix_sums(tree, reward - tau * ref_logp)",
          "depth-K search pays for leaving the reference",
          (f"{THEORY}::test_depth_k_search_with_values_is_likelihood_search_for_every_k",)),
    Fault(f"{SRC}/search/moves.py", "before.logp + span.logp, ref,", "span.logp, ref,",
          "spans: a text's log π is its last sentence's",
          (f"{TREE}::test_a_text_of_several_spans_carries_all_its_sums",)),
    Fault(f"{SRC}/search/vote.py", "sums.get(answers[i], 0.0) + weights[i] / whole", "max(sums.get(answers[i], 0.0), weights[i] / whole)",
          "vote: the heaviest text wins, not the answer of most weight",
          (f"{FLAGS}::test_a_vote_sums_weights_and_leaves_out_who_has_no_answer",)),
    Fault(f"{SRC}/search/language.py", "if model is self.critic:", "if model is not self.critic:",
          "values are read off the wrong model", (f"{TREE}::test_values_are_the_critics_own",)),
]  # fmt: skip
