"""The planted faults of `mutate.py`: in which file what text becomes which, what that breaks, which tests must notice."""

from __future__ import annotations

from faults.core import CORE
from faults.environments import ENVIRONMENTS
from faults.fault import Fault
from faults.trust import TRUST

FAULTS: list[Fault] = [*CORE, *ENVIRONMENTS, *TRUST]
