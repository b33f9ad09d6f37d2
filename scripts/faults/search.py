"""Faults of searches: what a tree search climbs by, what laws combine to, who is counted, who wins a vote."""

from __future__ import annotations

from faults.fault import Fault

SRC = "src/tokenward"
TREE, THEORY, FLAGS = "tests/search/test_mcts.py", "tests/search/test_theory.py", "tests/search/test_strategies.py"

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
    Fault(f"{SRC}/search/language.py", "if number == self._judge:", "if number != self._judge:",
          "values are read off the wrong model", (f"{TREE}::test_values_are_the_critics_own",)),
    Fault(f"{SRC}/search/beam.py", "for path in done[number])[-certain]", "for path in done[number])[-1]",
          "a beam that must be certain of several stops at the first",
          (f"{FLAGS}::test_a_beam_that_must_be_certain_of_several_finds_the_best_several",)),
    Fault(f"{SRC}/search/leaves.py", "        how.drawn += 1", "        how.drawn += 0",
          "every round of rollouts draws the same numbers",
          (f"{TREE}::test_every_round_of_rollouts_draws_anew_and_a_seed_repeats_them",)),
    Fault(f"{SRC}/search/language.py", "critic is policy or critic is reference else critic", "critic is policy else critic",
          "a critic that is the reference is read twice",
          (f"{TREE}::test_a_critic_that_is_the_reference_is_read_once_in_every_chunk",)),
    Fault(f"{SRC}/search/combined.py", "(proxy == NEVER) | (ref == NEVER)", "(proxy == NEVER)",
          "proxy tuning: a token that the reference never writes takes all the mass",
          (f"{FLAGS}::test_a_combination_of_beta_zero_is_the_base_and_what_the_reference_never_writes_stays_out",)),
    Fault(f"{SRC}/models/vocabulary.py", "    if not load.holds_tokenizer(load.located(path)):", "    if load.holds_tokenizer(load.located(path)):",
          "vocabulary: models of other tokens are compared id by id",
          (f"{FLAGS}::test_a_model_that_reads_other_tokens_is_refused_by_its_flag",)),
]  # fmt: skip
