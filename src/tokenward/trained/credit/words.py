"""The results of the study: claims, three tables, two figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tokenward.diagnose.measures.association import Interval
from tokenward.diagnose.truth.localization import ANY, Found, Localization, from_json, shown
from tokenward.studies.study import Cell, Claim, Figure, Series, Study, Table
from tokenward.trained.credit.measure import POLICY_LOGP, RANDOM, SFT_ENTROPY, SFT_LOGP, SWAPPED, TRUE

Row = Mapping[str, Any]
HERE = "measured here; the paper (Rafailov et al. 2024, §4.2) shows examples and no number"
SCORES = (TRUE, RANDOM, SWAPPED, SFT_LOGP, SFT_ENTROPY, POLICY_LOGP)
CONTROLS, BASELINES = (RANDOM, SWAPPED), (SFT_LOGP, SFT_ENTROPY)
FACTS = {
    "sampled_facts": "SFT texts", "injected_facts": "one injected error", "habit-sampled_facts": "SFT texts, habits",
}  # fmt: skip
ALL = {"sampled_all": "SFT texts", "injected_all": "one injected error", "habit-sampled_all": "SFT texts, habits"}
NEAR, SAME = 0.1, 0.02  # of ½ for the coin's labels; of each other for a second error and a first one


def told(results: Row) -> Study:
    """Everything that was found, with claims that fail where the numbers do not bear them out."""
    plan = results["settings"]
    tables = {name: from_json(table) for name, table in results["tables"].items() if name != "second"}
    second = results["tables"]["second"]
    return Study(
        name="credit",
        title="Is it credit?",
        question=(
            "DPO reads labels of whole texts. Does its implicit advantage β log π/π_ref fall on the tokens that are "
            "wrong, and does it find them better than chance, than training on labels that say nothing, and than "
            "the likelihood and entropy of the model that it started from?"
        ),
        world=(
            f"the built-in text world, a Llama of 0.44 million weights, β = {plan['beta']:g}, seed {plan['seed']}, "
            f"scale {plan['scale']:g}; {plan['held_prompts']} held-out prompts"
        ),
        claims=(*_label_claims(tables), *_baseline_claims(tables), _second_claim(second)),
        figures=(_figure(tables, FACTS, "facts", "At stated facts: AUC"), _kinds_figure(tables)),
        tables=(_fact_table(tables), _kind_table(tables), _second_table(second)),
        notes=_notes(results),
    )


def _label_claims(tables: Mapping[str, Localization]) -> tuple[Claim, ...]:
    sampled = tables["sampled_facts"]
    coin = sampled.of(RANDOM).auc
    claims = [
        Claim(
            f"Credit of DPO on true labels finds wrong facts better than that of DPO on random or swapped labels "
            f"({where}).",
            HERE, _check(tables[name], CONTROLS), _gap(tables[name], CONTROLS), at_least=0.0,
        )
        for name, where in FACTS.items()
    ]  # fmt: skip
    return (
        *claims,
        Claim(
            f"Random labels leave it within {NEAR:g} of chance.", HERE,
            f"|AUC − ½| at facts of SFT texts: {shown(coin)}; the interval is over texts, not over runs",
            abs(coin.value - 0.5), at_most=NEAR,
        ),
        Claim(
            "Swapped labels turn it round.", HERE,
            f"AUC at facts of SFT texts: {shown(sampled.of(SWAPPED).auc)}; measured: its upper end",
            sampled.of(SWAPPED).auc.high, at_most=0.5,
        ),
    )  # fmt: skip


def _baseline_claims(tables: Mapping[str, Localization]) -> tuple[Claim, ...]:
    habits, sampled, injected = tables["habit-sampled_facts"], tables["sampled_facts"], tables["injected_all"]
    lead = sampled.lead(SFT_LOGP).auc
    return (
        Claim(
            "Where the SFT model's errors are as likely as the truth, credit finds them and its likelihood and entropy "
            "do not.",
            HERE, _check(habits, BASELINES), _gap(habits, BASELINES), at_least=0.0,
        ),
        Claim(
            "Where errors are rare words, as with the built-in writer, likelihood finds wrong facts as well as credit: "
            "there the controls, not the baselines, show that the labels were learned.",
            HERE, f"paired difference of AUC, credit − {SFT_LOGP}, at facts of SFT texts: {shown(lead)}; measured: its "
            "upper end", lead.high, at_most=SAME,
        ),
        Claim(
            "Among all tokens of texts with one injected error, where rare words are right as well, credit finds wrong "
            "facts better than likelihood and entropy of the SFT model.",
            HERE, _check(injected, BASELINES, error="contradiction"), _gap(injected, BASELINES, error="contradiction"),
            at_least=0.0,
        ),
    )  # fmt: skip


def _second_claim(second: Row) -> Claim:
    found = from_json(second[TRUE])
    lead = found.lead("alone").auc
    return Claim(
        "A second wrong fact is found as well as the same one without an error before it.", HERE,
        f"paired difference of AUC on {found.of('after').wrong} texts in both versions: {shown(lead)}; AUC after an "
        f"error {shown(found.of('after').auc)}; measured: the difference's lower end", lead.low, at_least=-SAME,
    )  # fmt: skip


def _gap(found: Localization, others: tuple[str, ...], *, error: str = ANY) -> float:
    """Lower end of credit's AUC less the highest upper end of the others."""
    return found.of(TRUE, error=error).auc.low - max(found.of(name, error=error).auc.high for name in others)


def _check(found: Localization, others: tuple[str, ...], *, error: str = ANY) -> str:
    line = found.of(TRUE, error=error)
    named = ", ".join(f"{name} {shown(found.of(name, error=error).auc)}" for name in others)
    return (
        f"AUC {shown(line.auc)} for {line.wrong} wrong against {line.right} right tokens; {named}; measured: its lower "
        "end − the highest upper end of the others"
    )


def _fact_table(tables: Mapping[str, Localization]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for score in SCORES:
        cells = [cell for name in FACTS for cell in _cells(tables[name].of(score))]
        rows.append((score, *cells))
    columns = [f"{where}: {what}" for where in FACTS.values() for what in ("AUC", "average precision")]
    counts = "; ".join(f"{where}: {_counts(tables[name].of(TRUE))}" for name, where in FACTS.items())
    return Table(
        "Wrong facts among stated facts", ("score", *columns), tuple(rows),
        note=f"95 % bootstrap intervals over prompts. {counts}. By chance: AUC ½, average precision the wrong share.",
    )  # fmt: skip


def _kind_table(tables: Mapping[str, Localization]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for error in sorted({one.error for one in tables["injected_all"].found}, key=lambda kind: (kind != ANY, kind)):
        for score in SCORES:
            cells: list[Cell] = []
            for name in ALL:
                known = any(one.error == error for one in tables[name].found)
                cells += _cells(tables[name].of(score, error=error)) if known else (None, None)
            rows.append((error, score, *cells))
    columns = [f"{where}: {what}" for where in ALL.values() for what in ("AUC", "average precision")]
    counts = "; ".join(
        f"{where}: " + ", ".join(f"{one.error} {_counts(one)}" for one in tables[name].found if one.score == TRUE)
        for name, where in ALL.items()
    )
    return Table(
        "Wrong tokens among all tokens, by kind of error", ("error", "score", *columns), tuple(rows), note=f"{counts}."
    )


def _second_table(second: Row) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for score in SCORES:
        found = from_json(second[score])
        after, alone = found.of("after").auc, found.of("alone").auc
        rows.append((score, shown(after), shown(alone), shown(found.lead("alone").auc)))
    mean = {name: _pm(one) for name, one in second["credit"].items()}
    return Table(
        "The second fact of a text, wrong against right",
        ("score", "AUC after a wrong fact", "AUC after a right one", "difference"), tuple(rows),
        note=(
            "The same texts in four versions: no error, the first fact wrong, the second, both. Mean credit of the "
            f"wrong second fact (true labels, reward units): {mean['both']} after a wrong one, {mean['only_second']} "
            f"after a right one, difference {mean['difference']}."
        ),
    )  # fmt: skip


def _figure(tables: Mapping[str, Localization], sets: Mapping[str, str], name: str, title: str) -> Figure:
    series = tuple(
        _bars(where, list(SCORES), [tables[key].of(score).auc for score in SCORES]) for key, where in sets.items()
    )
    return Figure(name, title, "", "AUC", series, "½ is chance. 95 % bootstrap intervals over prompts.")


def _kinds_figure(tables: Mapping[str, Localization]) -> Figure:
    found = tables["injected_all"]
    kinds = sorted({one.error for one in found.found} - {ANY})
    series = tuple(
        _bars(score, kinds, [found.of(score, error=kind).auc for kind in kinds]) for score in (TRUE, RANDOM, SFT_LOGP)
    )
    return Figure(
        "kinds", "One injected error among all tokens: AUC by kind", "", "AUC", series,
        "Credit knows what the pairs show: few of the SFT model's texts leave the grammar. ½ is chance.",
    )  # fmt: skip


def _pm(found: Row) -> str:
    return f"{found['mean']:.2f} ± " + ("–" if math.isnan(found["se"]) else f"{found['se']:.2f}")


def _bars(name: str, labels: list[str], values: list[Interval]) -> Series:
    low, high = [v.low for v in values], [v.high for v in values]
    return Series(name, labels, [v.value for v in values], "bars", low, high)


def _cells(found: Found) -> tuple[str, str]:
    return shown(found.auc), shown(found.ap)


def _counts(found: Found) -> str:
    return f"{found.wrong} wrong, {found.right} right"


def _notes(results: Row) -> tuple[str, ...]:
    pairs = ", ".join(f"{name} {count}" for name, count in results["pairs"].items())
    return (
        "Credit: β (log π − log π_sft) of DPO on pairs of the SFT model's own texts; true labels are Bradley–Terry "
        f"draws on the world's reward, random ones a coin's, swapped ones the true ones exchanged. Pairs: {pairs}.",
        "SFT texts: sampled from the SFT model on held-out prompts, with the errors that it makes. One injected error: "
        "right texts of the writer of the SFT corpus, each as it is and with one wrong fact, one sentence said again, "
        "or one word that breaks the grammar.",
        "Habits: the same world with a writer who says half of the facts without looking, and then always the same "
        "word (black, lamp, late). The built-in writer's wrong words are spread over ten values and more, so that a "
        "wrong word is a rare word.",
        f"Intervals are over prompts of these trained models, not over training runs. Whole command "
        f"{results['seconds']:.0f} s on one thread.",
    )
