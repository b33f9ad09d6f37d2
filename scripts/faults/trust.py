"""Faults of constrained steps, mirror descent, and the exact KL to the old policy."""

from __future__ import annotations

from faults.fault import Fault

HERE, LAB = "tests/train/test_constrained.py", "tests/lab/test_trust_region.py"
STAYS = (f"{HERE}::test_where_no_trial_will_do_the_policy_stays_to_the_bit",)
STEP = (f"{HERE}::test_the_step_is_the_damped_natural_gradient_scaled_to_the_bound",)
OLD = (f"{HERE}::test_both_directions_of_the_kl_to_the_old_policy",)
ADAPTERS = (f"{HERE}::test_with_adapters_only_they_are_held_twice",)
RESUMED = (f"{HERE}::test_mirror_descent_resumed_within_a_batch_is_straight",)
TRIALS = (f"{HERE}::test_a_second_trial_starts_from_the_old_policy",)
EXACT = ("tests/objective/test_trust_by_hand.py",)
LAB_KL = (f"{LAB}::test_a_step_tends_to_the_exact_constrained_solution_as_the_bound_shrinks",)
LAB_STEP = (f"{LAB}::test_a_step_on_tokens_tilts_each_state_by_the_old_policys_q",)
LAB_ITERATES = (f"{LAB}::test_iterates_are_greedy_without_a_pull_and_boltzmann_with_one",)
TRAIN = "src/tokenward/train/constrained.py"
MODELS = "src/tokenward/models"

TRUST = [
    Fault(TRAIN, "now.kl <= self.rule.max_kl and ", "",
          "a constrained step does not look at the KL it realized", STAYS),
    Fault(TRAIN, "                self.roles.go_back()\n                move", "                move",
          "a second trial starts from the first one, not from the old policy", TRIALS),
    Fault(TRAIN, "return found + self.rule.damping * vector", "return found",
          "a constrained step without its damping", STEP),
    Fault(TRAIN, "weight=weight / total,", "weight=weight,",
          "the Fisher matrix is a sum over tokens, the KL a mean", STEP),
    Fault(f"{MODELS}/forward.py", 'mean_under(was, was - law)', 'mean_under(law, law - was)',
          "kl_of_old is KL(π‖π_old) turned round", OLD),
    Fault(f"{MODELS}/roles.py", "copy.deepcopy(policy, memo=dict(shared))", "copy.deepcopy(policy)",
          "the old policy of a LoRA run is a second model", ADAPTERS),
    Fault("src/tokenward/train/directory.py", 'run.roles.recall(saved.tensors.get("old", {}))', "",
          "a resumed run measures its KL from the weights it was loaded with", RESUMED),
    Fault("src/tokenward/recipes/trust_region.py", "coef=1 / eta)", "coef=eta)",
          "mirror descent: the exact KL is multiplied by η", EXACT),
    Fault("src/tokenward/lab/solving/constrained.py", "/ tokens  # dᵀFd", "# dᵀFd",
          "the lab's step is scaled by a KL per row", LAB_KL),
    Fault("src/tokenward/lab/optima/exact.py", "old_logp + eta * q", "old_logp + eta * soft_values(tree, old_logp, reward, tau=1 / eta).q",
          "one step on tokens is predicted with soft values", LAB_STEP),
    Fault("src/tokenward/lab/theory/mirror_descent.py", "reward - beta * (now - ref)", "reward + beta * (now - ref)",
          "the pull of the iterates pushes away from the reference", LAB_ITERATES),
]  # fmt: skip
