"""Faults of episodes, of trajectories in files, and of credit through observations."""

from __future__ import annotations

from faults.fault import Fault

ROLLOUT = "src/tokenward/rollout/environment.py"
TURNS = "src/tokenward/data/turns.py"

ENVIRONMENTS = [
    Fault("src/tokenward/objective/signal/advantages.py", "ahead = torch.where(mask[:, t], now, ahead)", "ahead = torch.where(mask[:, t], now, 0.0)",
          "returns and GAE: an observation wipes out the credit of every turn before it", ("tests/environments/test_episode_credit.py",)),
    Fault(ROLLOUT, "live.add(said, [0.0] * len(said), trainable=False)", "live.add(said, [0.0] * len(said), trainable=True)",
          "episodes: the environment's tokens are trained on", ("tests/environments/test_environments.py",)),
    Fault(ROLLOUT, "live.rewards[-1] = reward\n", "live.rewards[0] = reward\n",
          "episodes: every turn's reward goes to the first token", ("tests/environments/test_environments.py",)),
    Fault(ROLLOUT, "_taken(uniform[:, row], used[row], steps)", "_taken(uniform[:, row], 0, steps)",
          "episodes: every turn is drawn with the random numbers of the first", ("tests/environments/test_environments.py",)),
    Fault("src/tokenward/data/collate.py", "reward[row, start : start + len(r.rewards)]", "reward[row, : len(r.rewards)]",
          "rewards of turns stand a prompt too early", ("tests/environments/test_episode_credit.py",)),
    Fault(TURNS, 'trainable += [message.role == "assistant"] * len(part)', "trainable += [True] * len(part)",
          "trajectories of files: observations are imitated", ("tests/data/test_trajectories.py",)),
    Fault(TURNS, "ids = whole[cut:]", "ids = whole[len(closed) :]",
          "chat: what the template writes after an end token is lost before an observation", ("tests/data/test_trajectories.py",)),
]  # fmt: skip
