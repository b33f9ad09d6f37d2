"""A*-PO: regress β₂ log π/π_ref on r − V*, V* from answers of the reference (Brantley et al. 2025, arXiv 2505.20686).

    tokenward train examples/recipes/astar_po.py:astar_po --model M --data prompts.jsonl --reward R --out DIR
    tokenward lab examples/recipes/astar_po.py:astar_po

The paper draws the answers of π_ref once, before training, and keeps them; here they are drawn anew with each batch.
"""

from tokenward.objective.groups import MonteCarloNormalizer
from tokenward.objective.links import Square
from tokenward.objective.recipe import Recipe, Stream
from tokenward.objective.targets import Score
from tokenward.objective.terms import LogRatio, RowTerm


def astar_po(*, beta: float = 1e-3, beta_value: float = 0.5, samples: int = 8) -> Recipe:
    """(β lr(y) − (r − V*))², V* = β_value log mean exp(r/β_value) over `samples` answers of the reference.

    lr(y) = Σ_t log π/π_ref of the policy's own answer, without gradient through the sampling. Since E_π[∇ log π] = 0,
    any V* of the prompt leaves the fixed point π_ref·exp(r/β)/Z where it is; it only changes the noise (derived here).
    Defaults β 1e-3, β_value .5 and 8 answers: the authors' code, which also drops prompts whose answers all fail.
    """
    value = MonteCarloNormalizer(beta_value, drawn="ref_logp", stream=1)
    term = RowTerm("astar_po", score=LogRatio("ref_logp", beta=beta), link=Square(), target=Score(), offset=value)
    streams = (Stream("rollouts"), Stream("rollouts", group=int(samples), sampler="reference"))
    return Recipe("astar_po", ("Brantley et al. 2025, arXiv:2505.20686",), streams, (term,))
