"""Studies: what is known of losses, data and rates, as claims that are checked each time, with figures."""

from __future__ import annotations

from collections.abc import Callable

from tokenward.lab.worlds.world import World
from tokenward.studies.beam_width import beam_width
from tokenward.studies.connection import connection
from tokenward.studies.credit import credit_lab
from tokenward.studies.data_design import data_design
from tokenward.studies.demonstrations import demonstrations
from tokenward.studies.frontier import frontier
from tokenward.studies.kl_estimators import kl_estimators
from tokenward.studies.rates import rates
from tokenward.studies.reference import reference
from tokenward.studies.rto import rto
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
    "connection": connection,
    "kl-estimators": kl_estimators,
    "rto": rto,
    "demonstrations": demonstrations,
    "beam-width": beam_width,
    "frontier": frontier,
    "reference": reference,
    "credit-lab": credit_lab,
}
