"""Faults in the rewards of completions: functions, checkers, sums, time-outs, and runs whose reward fails."""

from __future__ import annotations

from faults.fault import Fault

HERE = "src/tokenward/rollout/rewards"
SOURCES = ("tests/rollout/test_rewards.py",)
GRAMMAR = ("tests/rollout/test_reward_grammar.py",)
RUNS = ("tests/train/test_reward_runs.py",)

REWARDS = [
    Fault(f"{HERE}/protocol.py", "score=(rollout.score or 0.0) + score", "score=score",
          "a reward overwrites what an environment gave", SOURCES),
    Fault(f"{HERE}/protocol.py", "tuple(a + b for a, b in zip(tokens or", "tuple(b for a, b in zip(tokens or",
          "token rewards overwrite those of an environment", SOURCES),
    Fault(f"{HERE}/returned.py", "rewards[bisect_left(ends, end)] +=", "rewards[min(bisect_left(ends, end) + 1, len(ends) - 1)] +=",
          "a step is paid one token late", SOURCES),
    Fault(f"{HERE}/returned.py", "if value is None:\n        raise InputError(f\"{who} has no {part} (None): a missing", "if value is ...:\n        raise InputError(f\"{who} has no {part} (None): a missing",
          "a missing score is told as a wrong type", SOURCES),
    Fault(f"{HERE}/process.py", "limit = time.monotonic() + seconds", "limit = time.monotonic() + 20 * seconds",
          "a time-out is longer than it says", SOURCES),
    Fault(f"{HERE}/worker.py", "while os.getppid() == parent:", "while True:",
          "the function's process outlives the run", SOURCES),
    Fault(f"{HERE}/implicit.py", "self.beta * keep(ours.double() - theirs.double(), batch.mask)", "keep(ours.double() - theirs.double(), batch.mask)",
          "implicit reward in nats, without its β", SOURCES),
    Fault(f"{HERE}/combined.py", "score=part.weight * (own.score or 0.0)", "score=own.score or 0.0",
          "weights of a sum do not count", GRAMMAR),
    Fault(f"{HERE}/combined.py", "part.weight * reward for reward in own.rewards", "reward for reward in own.rewards",
          "weights of a sum do not count at tokens", GRAMMAR),
    Fault(f"{HERE}/number.py", "(?<![\\w)\\]%])(?P<sign>", "(?P<sign>",
          "9-5 ends in −5", GRAMMAR),
    Fault(f"{HERE}/number.py", "[$€£]?\\Z", "[$€£]?$",
          "a sign counts across a line break", GRAMMAR),
    Fault(f"{HERE}/answer.py", "float(found == wanted)", "float(found is not None and abs(found - wanted) < 1e-6)",
          "answers are compared up to a tolerance", GRAMMAR),
    Fault(f"{HERE}/length.py", "sum(rollout.trainable) - self.tokens", "len(rollout.trainable) - self.tokens",
          "an environment's tokens count as length", GRAMMAR),
    Fault(f"{HERE}/stop.py", 'if r.finish == "length"', 'if r.finish == "stop"',
          "completions that stopped are punished", GRAMMAR),
    Fault("src/tokenward/train/next_batch.py", "        run.source.load_state(before)\n", "",
          "a resumed run skips the random numbers of the batch that failed", RUNS),
    Fault("src/tokenward/train/next_batch.py", "        directory.save(run, place)\n", "",
          "a failed reward loses what was learned", RUNS),
]  # fmt: skip
