"""The built-in world's reward without its cost per token: long texts lose nothing, so that answers stay long."""

from __future__ import annotations

from tokenward.data.world import COST, truth, words_of


def reward(prompts: list[str], completions: list[str], columns: list[dict[str, object]]) -> list[float | None]:
    """Facts, praise and errors of each text; None where the prompt is not of this world."""
    del columns
    found = [truth(prompt, words_of(text)) for prompt, text in zip(prompts, completions, strict=True)]
    return [None if one is None else one.total + COST * len(one.reward) for one in found]
