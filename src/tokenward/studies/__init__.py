"""Studies: what is known of losses, data and rates, as claims that are checked each time, with figures."""

from __future__ import annotations

from collections.abc import Callable

from tokenward.lab.world import World
from tokenward.studies.data_design import data_design
from tokenward.studies.rates import rates
from tokenward.studies.shift import shift
from tokenward.studies.study import Study
from tokenward.studies.targets import targets
from tokenward.studies.temperature import temperature

STUDIES: dict[str, Callable[[World | None], Study]] = {
    "targets": targets,
    "shift": shift,
    "rate": rates,
    "temperature": temperature,
    "data-design": data_design,
}
