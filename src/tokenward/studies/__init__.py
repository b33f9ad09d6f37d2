"""Studies: what is known of losses, data and rates, as claims that are checked each time, with figures."""

from __future__ import annotations

from collections.abc import Callable

from tokenward.lab.world import World
from tokenward.studies.study import Study

STUDIES: dict[str, Callable[[World | None], Study]] = {}
