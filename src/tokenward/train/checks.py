"""What must hold before the first step: policy = reference, and sampler = trainer."""

from __future__ import annotations

from tokenward.errors import RunError
from tokenward.masking import keep
from tokenward.train.assemble import Run
from tokenward.types import Batch, TokenStats, actor_of, take

# largest |log π_sampler − log π_trainer| of a token, nats: a cache of keys and values rounds differently
RATIO_TOLERANCE = {"float64": 1e-8, "float32": 1e-3, "bfloat16": 0.5}


def first_batch(run: Run, batch: Batch, frozen: TokenStats) -> list[str]:
    """The lines to print about the first batch; RunError where the policy is not what it must be."""
    return [*_reference(run, batch), *_sampler(run, batch, frozen)]


def _reference(run: Run, batch: Batch) -> list[str]:
    """Implicit reward of the untrained policy: 0 when the reference is the model itself, up to rounding."""
    if not run.recipe.needs & {"ref_logp"}:
        return []
    limit, kind = run.roles.step0_tolerance(), run.roles.reference_kind()
    config, lines, same = run.config, [], []
    started = (("policy", config.ref, config.model), ("partner", config.partner_ref, config.partner))
    actors = actor_of(batch)
    for actor in actors.unique().tolist():
        who, path, own = started[actor]
        gap = run.roles.step0_gap(take(batch, (actors == actor).nonzero().squeeze(-1), width=batch.tokens.shape[1]))
        if path not in (None, "copy", "adapter", "cached", own):
            lines.append(f"reference {path}: largest |log π/π_ref| of a token at the start {gap:.3g}")
        elif gap <= limit:
            same.append(gap)
        else:
            raise RunError(
                f"at the start the {who} differs from its reference ({kind}) by {gap:.3g} nats at a token, "
                f"more than rounding explains ({limit:g}): the reference is not the model that the run starts from"
            )
    if same:
        lines.append(
            f"reference ({kind}): largest |log π/π_ref| of a token at the start {max(same):.2g}, allowed {limit:g}"
        )
    return lines


def _sampler(run: Run, batch: Batch, frozen: TokenStats) -> list[str]:
    """First ratio: the sampler's log-probabilities are the trainer's, unless it drew from a kept set."""
    old = frozen.old_logp
    if batch.sampler_logp is None or old is None:
        return []
    own = batch.mask if batch.origin is None else batch.mask & (batch.origin == 0)[:, None]
    gap = float(keep(batch.sampler_logp - old, own).abs().max())
    limit, config = RATIO_TOLERANCE[run.config.dtype], run.config
    if config.top_k is not None or config.top_p is not None:
        return [
            f"sampler: largest |log π_sampler/π_trainer| of a token {gap:.3g}: top_k and top_p draw from a kept set, "
            "which the ratio of the recipe does not know"
        ]
    if not gap <= limit:
        raise RunError(
            f"first ratio: sampler and trainer differ by {gap:.3g} nats at a token, more than {limit:g} "
            f"({config.dtype}): the completions are not the policy's"
        )
    return [f"first ratio: largest |log π_sampler/π_trainer| of a token {gap:.2g}, allowed {limit:g}"]
