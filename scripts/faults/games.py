"""Faults of several laws: who writes, who is compared with whom, which groups are dropped."""

from __future__ import annotations

from faults.fault import Fault

OBJECTIVE = "src/tokenward/objective"
ROWS = ("tests/objective/test_games_by_hand.py",)
STREAMS = "tests/train/test_streams.py"
LAB = ("tests/lab/test_games.py::test_rows_and_pairs_of_two_streams_have_their_own_laws",)

GAMES = [
    Fault(f"{OBJECTIVE}/games.py", "torch.cat([share * excess, -share * excess])", "torch.cat([share * excess, share * excess])",
          "win rate: the second of a pair wins where it loses", ROWS),
    Fault(f"{OBJECTIVE}/games.py", "group_mean(score, batch, stream=self.beside)", "group_mean(score, batch)",
          "ReMax: the baseline is the answer's own score", ROWS),
    Fault(f"{OBJECTIVE}/signal/memory.py", 'return batch if hasattr(step, "beside") else', "return batch if True else",
          "every step sees the rows of all streams", ("tests/objective/test_laws.py",)),
    Fault("src/tokenward/types.py", "(ends[:, 0] == min(streams)) & (ends[:, 1] == max(streams))", "ends[:, 0] == min(streams)",
          "a pair term reads pairs of streams that are not its own", ROWS),
    Fault("src/tokenward/recipes/games.py", "coef=-alpha, stream=1", "coef=alpha, stream=1",
          "XPO: the bonus pushes towards the reference's answers", ROWS),
    Fault("src/tokenward/rollout/mixture.py", "(1 - share) * logits + share * theirs", "share * logits + (1 - share) * theirs",
          "mixture: the shares are exchanged", (f"{STREAMS}::test_the_ends_of_a_mixture_are_its_two_models",)),
    Fault("src/tokenward/rollout/mixture.py", "self._cache, self._read = out.past_key_values, tokens.shape[1]",
          "self._cache, self._read = out.past_key_values, tokens.shape[1] - 1",
          "mixture: the second model reads its last token twice", (f"{STREAMS}::test_a_mixture_writes_down_the_law_it_drew_from",)),
    Fault("src/tokenward/train/samplers.py", "_APART * place", "0 * place",
          "policy and reference draw with the same random numbers",
          (f"{STREAMS}::test_equal_models_write_different_answers_for_policy_and_reference",)),
    Fault("src/tokenward/rollout/source.py", "self._taken = taken\n", "self._taken += self.prompts_per_batch\n",
          "dynamic sampling: dropped prompts are asked again",
          (f"{STREAMS}::test_flat_groups_are_dropped_and_the_next_prompts_take_their_place",)),
    Fault("src/tokenward/rollout/source.py", 'states = [state["sampler"], *state["beside"]]', 'states = [state["sampler"]] * len(self.writers)',
          "resuming gives every sampler the state of the first",
          (f"{STREAMS}::test_all_rows_of_a_prompt_stand_together_stream_after_stream",)),
    Fault("src/tokenward/lab/solving/streams.py", "logs = (1 - share) * tree.conditional(law) + share", "logs = share * tree.conditional(law) + (1 - share)",
          "lab: the mixture's shares are exchanged", LAB),
]  # fmt: skip
