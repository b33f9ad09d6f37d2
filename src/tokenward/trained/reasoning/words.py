"""The results of the study of chains as a study: claims and what surrounds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenward.studies.study import Claim, Study
from tokenward.trained.reasoning.tables import KINDS, ends, figures, tables, title

Row = Mapping[str, Any]
PAPER = "Rafailov et al. 2024, §6: intermediate reasoning learned from outcome feedback; measured here"
HERE = "measured here"


def told(results: Row) -> Study:
    """Everything that was found, with claims that fail where the numbers do not bear them out."""
    plan = results["settings"]
    return Study(
        name="chains",
        title="Process credit from outcome labels",
        question=(
            "A model works out a sum step by step, and only its final answer is judged. Does DPO on such pairs know "
            "which step was wrong, and is that of use: to choose among texts, or to reward steps in PPO?"
        ),
        world=(
            "sums of two to four steps modulo ten, written out; a writer who believes some wrong sums and slips now "
            f"and then taught the SFT policy; a Llama of 0.4 million weights, seed {plan['seed']}, scale "
            f"{plan['scale']:g}; {_sample(results)}"
        ),
        claims=(*_start(results), *_finds(results), *_chooses(results), *_rewards(results)),
        figures=figures(results),
        tables=tables(results),
        notes=_notes(results),
    )


def _start(results: Row) -> tuple[Claim, ...]:
    """What the rest stands on, and whether DPO learned at all."""
    policies = results["policies"]
    sft, dpo = policies["sft"]["right"], policies["dpo"]["minus_sft"]
    return (
        Claim(
            "The SFT policy answers at least 80 % of held-out prompts right, and at most 97 %.", HERE,
            f"sampled at temperature 1, {_sample(results)}: {ends(sft)}; measured: the share",
            sft["value"], at_least=0.8, at_most=0.97,
        ),
        Claim(
            "DPO on pairs that differ in the final answer alone answers more prompts right than SFT.", HERE,
            f"{ends(policies['dpo']['right'])} and {ends(sft)}; measured: lower end of the paired difference "
            f"{ends(dpo)}", dpo["low"], at_least=0.0,
        ),
    )  # fmt: skip


def _finds(results: Row) -> tuple[Claim, ...]:
    """Whether step credit finds the first wrong step, against chance, random labels and the reward model."""
    claims = []
    for kind in ("injected", "natural"):
        found = results["credit"][kind]
        if found is None:
            continue
        area, control = found["credit"]["auc"], found["random"]["auc"]
        lead, chance, model = found["lead_random"]["auc"], found["lead_chance"]["hits"], found["lead_model"]["auc"]
        check = f"{KINDS[kind]}, {found['texts']} texts, bootstrap over prompts"
        claims += [
            Claim(
                f"{title(kind)}: summed over steps, the implicit advantage is lower at the first wrong "
                "step than at others.", PAPER,
                f"AUC {ends(area)}, {check}; measured: its lower end", area["low"], at_least=0.5,
            ),
            Claim(
                f"{title(kind)}: the step of least credit is the first wrong one more often than chance "
                "has it.", PAPER,
                f"{ends(found['credit']['hits'])}, chance {ends(found['chance']['hits'])}, {check}; measured: lower "
                "end of the difference", chance["low"], at_least=0.0,
            ),
            Claim(
                f"{title(kind)}: it is the labels that do it: with random ones the AUC is lower.", HERE,
                f"random labels {ends(control)}, {check}; measured: lower end of the paired difference {ends(lead)}",
                lead["low"], at_least=0.0,
            ),
            Claim(
                f"{title(kind)}: step credit finds it better than differences of an outcome reward "
                "model's score, trained on the same pairs.",
                "derived here: such a model is fitted on whole texts alone, a policy's log-ratio at every token",
                f"reward model {ends(found['model']['auc'])}, {check}; measured: lower end of the paired difference "
                f"of AUC {ends(model)}", model["low"], at_least=0.0,
            ),
        ]  # fmt: skip
    return tuple(claims)


def _chooses(results: Row) -> tuple[Claim, ...]:
    """Whether choosing by implicit reward helps, and whether it beats the reward model and a vote."""
    best, n = results["best"], results["settings"]["best_of"]
    check = f"the same {n} SFT texts of each of {results['counts']['prompts']} held-out prompts, paired"
    at = {name: ends(best[name][str(n)]) for name in ("implicit", "model", "vote")}
    return (
        Claim(
            f"The best of {n} SFT texts by implicit reward is right more often than one text.", PAPER,
            f"{at['implicit']} and {ends(best['implicit']['1'])}, {check}; measured: lower end of the difference",
            best["gain_implicit"]["low"], at_least=0.0,
        ),
        Claim(
            f"The best of {n} by implicit reward is right more often than by majority vote, which has no labels.", HERE,
            f"{at['implicit']} and {at['vote']}, {check}; measured: lower end of the difference "
            f"{ends(best['lead_vote'])}", best["lead_vote"]["low"], at_least=0.0,
        ),
        Claim(
            f"The best of {n} by implicit reward is right no less often than by the reward model, within two points.",
            HERE, f"{at['implicit']} and {at['model']}, {check}; measured: lower end of the difference "
            f"{ends(best['lead_model'])}", best["lead_model"]["low"], at_least=-0.02,
        ),
    )  # fmt: skip


def _rewards(results: Row) -> tuple[Claim, ...]:
    """Whether DPO's credit helps PPO beside the outcome, whether its place matters, and what the reward model does."""
    policies = results["policies"]
    steps, end = policies["ppo-steps"], policies["ppo-end"]
    gap, outcome = steps["minus_ppo-end"], steps["minus_ppo-outcome"]
    model = policies["ppo-model"]
    check = f"{_sample(results)}, one run each"
    return (
        Claim(
            "PPO on the true outcome and DPO's credit of each step answers more prompts right at this budget than PPO "
            "on the outcome alone.", "Zhong et al. 2024: RTO before PPO; measured here",
            f"{ends(steps['right'])} and {ends(policies['ppo-outcome']['right'])}, {check}; measured: lower end of the "
            f"paired difference {ends(outcome)}", outcome["low"], at_least=0.0,
        ),
        Claim(
            "That credit teaches more on steps than as the same sum at the last token.",
            "Zhong et al. 2024, ablation of Eq. 4.7: RTO before DDPO; with an exact critic both have one optimum",
            f"{ends(steps['right'])} and {ends(end['right'])}, {check}; measured: lower end of the paired difference "
            f"{ends(gap)}", gap["low"], at_least=0.0,
        ),
        Claim(
            "PPO on the outcome reward model answers more prompts right than SFT.", HERE,
            f"{ends(model['right'])}, {check}; measured: lower end of the paired difference {ends(model['minus_sft'])}",
            model["minus_sft"]["low"], at_least=0.0,
        ),
    )  # fmt: skip


def _notes(results: Row) -> tuple[str, ...]:
    plan, pairs, credit = results["settings"], results["pairs"], results["credit"]
    preferences = results["preferences"]
    won = ", ".join(f"{name} {ends(preferences[name])}" for name in ("dpo", "reward-model", "dpo-random-labels"))
    return (
        f"{pairs['pairs']} pairs of SFT texts of one training prompt, the right final answer over the wrong one, at "
        f"most {plan['most_pairs']} a prompt; no label says where a text went wrong. {pairs['unsound']:.1%} of the SFT "
        "texts have a wrong step and a right answer. Held-out pairs told right "
        f"({preferences['pairs']} pairs): {won}.",
        "The marks that end steps are drawn at random and say nothing, so that an unlikely step need not be a wrong "
        "one; of the errors of the SFT policy many are beliefs of the writer that taught it, half as likely as not. "
        "Errors put in are drawn evenly from the nine wrong digits: to the SFT policy nearly all of them are unlikely.",
        "Steps behind an injected error follow rightly from the wrong value: they count as right, since the answer "
        "was lost before them. A chain with two errors that cancel has a right answer; it is reported, not claimed.",
        f"SFT took {results['taught']['rounds']} of at most {plan['rounds']} rounds. "
        f"{credit['wrong']} of {credit['sampled']} SFT texts on held-out prompts end in a wrong answer. Intervals are "
        "of prompts and texts for these trained models, not of training seeds.",
        f"Whole command {results['seconds']:.0f} s on one thread.",
    )


def _sample(results: Row) -> str:
    return f"{results['counts']['prompts']} held-out prompts × {results['counts']['texts']} texts"
