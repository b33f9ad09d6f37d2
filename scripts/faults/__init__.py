"""The planted faults of `mutate.py`: in which file what text becomes which, what that breaks, which tests must notice."""

from __future__ import annotations

from faults.chains import CHAINS
from faults.clipped import CLIPPED
from faults.core import CORE
from faults.environments import ENVIRONMENTS
from faults.fault import Fault
from faults.games import GAMES
from faults.health import HEALTH
from faults.lens import LENS
from faults.lens_page import LENS_PAGE
from faults.pipeline import PIPELINE
from faults.ppo import PPO
from faults.reference import REFERENCE
from faults.rewards import REWARDS
from faults.rto import RTO
from faults.search import SEARCH
from faults.sweep import SWEEP
from faults.trust import TRUST
from faults.truth import TRUTHS

FAULTS: list[Fault] = [
    *CORE,
    *CLIPPED,
    *ENVIRONMENTS,
    *REWARDS,
    *RTO,
    *PPO,
    *TRUST,
    *SEARCH,
    *SWEEP,
    *GAMES,
    *HEALTH,
    *PIPELINE,
    *REFERENCE,
    *CHAINS,
    *LENS,
    *LENS_PAGE,
    *TRUTHS,
]
