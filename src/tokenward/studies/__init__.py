"""Studies: what is known of losses, data and rates, as claims that are checked each time, with figures."""

from __future__ import annotations

from collections.abc import Callable

from tokenward.lab.world import World
from tokenward.studies.shift import shift
from tokenward.studies.study import Study
from tokenward.studies.targets import targets
from tokenward.studies.temperature import temperature

STUDIES: dict[str, Callable[[World | None], Study]] = {
    "targets": targets,
    "shift": shift,
    "temperature": temperature,
}
