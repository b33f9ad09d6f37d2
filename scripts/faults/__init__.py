"""The planted faults of `mutate.py`: in which file what text becomes which, what that breaks, which tests must notice."""

from __future__ import annotations

from faults.clipped import CLIPPED
from faults.core import CORE
from faults.environments import ENVIRONMENTS
from faults.fault import Fault
from faults.games import GAMES
from faults.ppo import PPO
from faults.rewards import REWARDS
from faults.rto import RTO
from faults.sweep import SWEEP
from faults.trust import TRUST

FAULTS: list[Fault] = [*CORE, *CLIPPED, *ENVIRONMENTS, *REWARDS, *RTO, *PPO, *TRUST, *SWEEP, *GAMES]
