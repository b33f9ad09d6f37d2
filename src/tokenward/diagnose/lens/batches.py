"""Texts as one batch of rows in their order, as the training of a recipe would see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch

from tokenward.data.collate import pairs_batch, rollouts_batch, rows_batch
from tokenward.data.sentences import sentence_ends, with_sentences
from tokenward.data.tokenize import Pair, StepPair
from tokenward.data.units import steps_batch
from tokenward.diagnose.lens.texts import Answered, Given, Text
from tokenward.errors import InputError
from tokenward.objective.recipe import Recipe
from tokenward.types import Batch


def batch_of(examples: Sequence[Answered], *, pad_id: int) -> Batch:
    """One row for each of `texts`: pairs as chosen and rejected, runs of a pipeline step by step."""
    if pairs := [e for e in examples if isinstance(e, Pair)]:
        return pairs_batch(pairs, pad_id=pad_id)
    if runs := [e for e in examples if isinstance(e, StepPair)]:
        return steps_batch(runs, pad_id=pad_id)
    return rows_batch([e for e in examples if not isinstance(e, Pair | StepPair)], pad_id=pad_id)


def recipe_batch(recipe: Recipe, given: Given, texts: Sequence[Text], *, ends: str) -> Batch:
    """The same with what the recipe reads besides: scores, groups, sentences, mismatched rows at the end (KTO).

    Rollouts of one prompt are a group, so its rows must stand together (`by_prompt`). `ends`: the characters that end a
    sentence, for recipes that count sentences.
    """
    stream, needs = recipe.streams[0], recipe.needs
    _fits(recipe, given)
    if stream.kind == "rollouts":
        groups = [list(group) for _, group in groupby(texts, key=lambda text: text.prompt.id)]
        if short := [group[0].prompt.where for group in groups if len(group) < stream.group]:
            raise InputError(
                f"recipe {recipe.name} compares {stream.group} or more texts of a prompt: {len(short)} of "
                f"{len(groups)} prompts have fewer, the first is {short[0]}"
            )
        rollouts = [[text.rollout for text in group] for group in groups]
        batch = rollouts_batch(rollouts, pad_id=given.pad, compared=recipe.compared)
        batch = replace(batch, sampler_logp=None, version=None)
    elif any("point" in step.makes for step in recipe.steps):
        rows = [e for e in given.examples if not isinstance(e, Pair | StepPair)]
        if len(rows) < 2:
            raise InputError(
                f"recipe {recipe.name} pairs each prompt with the answer to another, and {given.data.source} gives one "
                "text: give two or more"
            )
        longest = max(len(text.prompt.tokens) + len(text.response.tokens) for text in texts)
        batch = rows_batch(rows, pad_id=given.pad, probes="mismatched", max_tokens=longest)
    else:
        batch = batch_of(given.examples, pad_id=given.pad)
    scores = [text.score for text in texts if text.score is not None]
    if given.scores and batch.rows == len(scores):
        batch = replace(batch, score=torch.tensor(scores))
    if "segment" in needs:
        batch = with_sentences(batch, ends=sentence_ends(given.data.encoder, characters=ends))
    return batch


def _fits(recipe: Recipe, given: Given) -> None:
    """One line where the texts are not what the recipe learns from."""
    wanted, kind = recipe.streams[0].kind, given.data.schema.kind
    if beside := [stream for stream in recipe.streams[1:] if stream.kind == "rollouts"]:
        raise InputError(f"recipe {recipe.name} compares with {beside[0]}, which a file of texts does not have")
    if "model_score" in recipe.needs:
        raise InputError(f"recipe {recipe.name} trains a reward model, which has no law of tokens: credit has none")
    single = kind in ("demos", "labels", "scores")
    if wanted == kind or (single and (wanted == "rollouts" or (wanted == "scores" and given.scores))):
        return
    named = "texts of the policy (prompt, completion)" if wanted == "rollouts" else wanted
    raise InputError(f"recipe {recipe.name} learns from {named}, and {given.data.source} holds {kind}")
