"""The built-in world: its truth by hand, that no text games it, its rows, tokenizer and model."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise, product
from pathlib import Path

import pytest

from tokenward.data import world, world_model, world_rows
from tokenward.data.dataset import load
from tokenward.errors import InputError
from tokenward.train.config import RunConfig

PROMPT = "order : red lamp . it came late . review :"
BEST = 1.9  # "the red lamp arrived late . i love it . great service .": 3·0.6 + 1 + ½·0.8 − 13·0.1


def score(text: str) -> float:
    found = world.truth(PROMPT, world.words_of(text))
    assert found is not None
    return found.total


def kinds(text: str) -> dict[int, str]:
    found = world.truth(PROMPT, text.split())
    assert found is not None
    return {i: kind for i, kind in enumerate(found.kind) if kind}


def test_right_text_by_hand() -> None:
    found = world.truth(PROMPT, "my lamp came late . i love it .".split())
    assert found is not None
    assert found.reward == pytest.approx((-0.1, 0.5, -0.1, 0.5, -0.1, -0.1, 0.9, -0.1, -0.1))
    assert found.slot == (False, True, False, True, False, False, False, False, False)
    assert found.errors == 0 and found.total == pytest.approx(1.3)


def test_penalty_stands_at_the_contradicting_word() -> None:
    found = world.truth(PROMPT, "the blue lamp arrived wet .".split())
    assert found is not None
    assert found.penalty == (0, 2.0, 0, 0, 2.0, 0)
    assert found.reward == pytest.approx((-0.1, -2.1, 0.5, -0.1, -2.1, -0.1))
    assert found.slot == (False, True, True, False, True, False)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("i love it . i love it .", {5: "repeat"}),  # at "love": another sentence could still begin with "i"
        ("my lamp came late . my lamp came late .", {5: "repeat"}),  # nothing else begins with "my"
        ("my lamp came late . my lamp came wet .", {5: "repeat", 8: "contradiction"}),
        ("it was late . it was wet .", {5: "repeat", 6: "contradiction"}),
        ("the lamp is red . the red lamp arrived late .", {}),  # the same facts in another sentence are no repetition
        ("i love love it .", {2: "repeat"}),
        ("i lamp red the . bad service .", {1: "broken"}),
        ("great service", {1: "broken"}),
        (". .", {0: "broken", 1: "repeat"}),
        ("i love <pad> it .", {2: "broken"}),
        ("", {}),
    ],
)
def test_kinds(text: str, wrong: dict[int, str]) -> None:
    assert kinds(text) == wrong


def test_praise_counts_once_and_halves() -> None:
    found = world.truth(PROMPT, "i love it . i am very happy . i love it .".split())
    assert found is not None
    gains = [r + world.COST for r in found.reward]
    assert gains[1] == pytest.approx(1.0) and gains[7] == pytest.approx(0.5)
    assert gains[10] == pytest.approx(-world.PENALTY["repeat"])


def test_a_fact_is_rewarded_once() -> None:
    assert score("the lamp is red .") == pytest.approx(1.2 - 0.5)
    assert score("the lamp is red . i ordered a red lamp .") == pytest.approx(1.2 - 1.1)


def test_once_every_sentence_is_said_all_more_is_repetition() -> None:
    every = " ".join(world.SENTENCES).format(color="red", item="lamp", event="late")
    assert kinds(every) == {}
    again = kinds(f"{every} that is all .")
    assert again == {len(every.split()): "repeat"}


@pytest.mark.slow
def test_no_short_text_of_sentences_beats_the_best() -> None:
    facts = {"color": "red", "item": "lamp", "event": "late"}
    texts = [s.format(**facts) for s in (*world.STATEMENTS, *world.PRAISE, "i want a refund .", "that is all .")]
    scores = {p: score(" ".join(p)) for n in (1, 2, 3) for p in product(texts, repeat=n)}
    assert max(scores.values()) == pytest.approx(BEST)
    best = max(scores, key=scores.__getitem__)
    assert set(best) == {"the red lamp arrived late .", "i love it .", "great service ."}


@pytest.mark.slow
def test_no_text_found_by_search_beats_the_best() -> None:
    """A beam over all words of the vocabulary, 12 words deep, with what it has earned so far as the guide."""
    words, beam, seen = world.vocabulary(), [()], []
    for _ in range(12):
        grown = [(*text, word) for text in beam for word in words]
        found = {text: world.truth(PROMPT, text) for text in grown}
        seen += [t.total for t in found.values() if t is not None]
        beam = sorted(grown, key=lambda text: -sum(found[text].reward[:-1]) - found[text].reward[-1])[:6]  # type: ignore[union-attr]
    assert max(seen) <= BEST + 1e-9


@pytest.mark.parametrize("text", [*world.SENTENCES, "great .", "love", "lamp", "great great service .", ". ", "zzz "])
def test_endless_repetition_always_loses(text: str) -> None:
    text = text.format(color="red", item="lamp", event="late")
    scores = [score(" ".join([text] * n)) for n in range(2, 30)]
    assert all(later < sooner for sooner, later in pairwise(scores))
    assert score(" ".join([text] * 10)) < -1


def test_random_words_score_below_nothing() -> None:
    rng = random.Random(0)
    words = world.vocabulary()
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 24))) for _ in range(500)]
    assert score("") == 0 and max(score(t) for t in texts) < 0


def test_reward_is_the_sum_and_none_outside_the_world() -> None:
    columns: list[dict[str, object]] = [{}, {}]
    values = world.reward([PROMPT, "once upon a time"], ["my lamp came wet .", "my lamp came wet ."], columns)
    assert values == [pytest.approx(0.6 - 0.5 - 2.0), None]


def test_error_spans() -> None:
    found = world.truth(PROMPT, "the blue sofa arrived wet . i love love it .".split())
    assert found is not None
    assert world.error_spans(found) == [(1, 3, "contradiction"), (4, 5, "contradiction"), (8, 9, "repeat")]


def test_every_valence_word_marks_its_sentence() -> None:
    for sentence, (word, _) in world.VALENCE.items():
        place = sentence.split().index(word)
        begun = sentence.split()[: place + 1]
        assert [s for s in world.SENTENCES if s.split()[: place + 1] == begun] == [sentence]


def test_prompts_state_their_facts_and_share_none() -> None:
    train, heldout = world_rows.prompt_rows(train=1200, heldout=400, seed=3)
    for row in train + heldout:
        assert world.facts_of(row["prompt"]) == {name: row[name] for name in world.FACTS}
    combination = [tuple(row[name] for name in world.FACTS) for row in train + heldout]
    assert len(set(combination)) == 1600 and len(train) == 1200
    with pytest.raises(InputError, match="1200 \\+ 401 prompts asked of a world of 1600"):
        world_rows.prompt_rows(train=1200, heldout=401, seed=3)


def test_seed_decides_everything() -> None:
    def everything(seed: int) -> list[object]:
        train, _ = world_rows.prompt_rows(train=50, heldout=5, seed=seed)
        return [world_rows.sft_rows(train, count=80, seed=seed), world_rows.copy_rows(count=20, seed=seed)]

    assert everything(1) == everything(1)
    assert everything(1)[0] != everything(2)[0] and everything(1)[1] != everything(2)[1]


@pytest.mark.slow
def test_the_writer_is_careless_but_grammatical() -> None:
    train, _ = world_rows.prompt_rows(train=400, heldout=0, seed=0)
    rows = world_rows.sft_rows(train, count=2000, seed=0)
    found = [world.truth(r["prompt"], r["completion"].split()) for r in rows]
    count = Counter(kind for t in found if t for kind in t.kind)
    facts = sum(sum(t.slot) for t in found if t) - count["repeat"]
    assert count["broken"] == 0 and count["repeat"] > 100
    # a fact drawn anew is right by chance in one of 8 to 16 cases
    assert count["contradiction"] / facts == pytest.approx(world_rows.WRONG * 0.9, abs=0.02)
    assert max(len(r["completion"].split()) for r in rows) <= world_rows.LONGEST
    assert len({r["completion"] for r in rows}) > 1500


def test_copy_rows_say_it_twice() -> None:
    rows = world_rows.copy_rows(count=300, seed=0)
    assert all(r["prompt"] == r["completion"] + " :" for r in rows)
    assert {w for r in rows for w in r["completion"].split()} == set(world.vocabulary())


def test_pairs_follow_bradley_terry() -> None:
    rows = world_rows.pair_rows(["p"] * 4000, [["a", "b"]] * 4000, [[1.0, 0.0]] * 4000, labels="bradley_terry", seed=0)
    share = sum(r["chosen"] == "a" for r in rows) / 4000
    assert share == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert all({r["chosen"], r["rejected"]} == {"a", "b"} and r["prompt"] == "p" for r in rows)


def test_coins_follow_the_truth_in_one_of_every_two_neighbors() -> None:
    rewards = [[float(i), 0.0] for i in range(1000)]
    texts = [[f"good{i}", f"bad{i}"] for i in range(1000)]
    rows = world_rows.pair_rows([f"{i}" for i in range(1000)], texts, rewards, labels="coin", seed=0)
    follows = [r["chosen"].startswith("good") for r in rows]
    assert all(a != b for a, b in zip(follows[::2], follows[1::2], strict=True))
    assert sum(follows[::2]) / 500 == pytest.approx(0.5, abs=0.08)


def test_pairs_skip_equal_and_empty_texts_and_the_odd_one() -> None:
    rows = world_rows.pair_rows(
        ["p"], [["a", "a", "b", " ", "c", "d", "e"]], [[0.0] * 7], labels="bradley_terry", seed=0
    )
    assert [{r["chosen"], r["rejected"]} for r in rows] == [{"c", "d"}]


def test_tokenizer_has_one_id_per_word_and_reads_back_what_it_wrote() -> None:
    made = world_model.tokenizer()
    assert len({made.bos_token_id, made.eos_token_id, made.pad_token_id, made.unk_token_id}) == 4
    train, _ = world_rows.prompt_rows(train=60, heldout=0, seed=0)
    for row in world_rows.sft_rows(train, count=60, seed=0):
        ids = made(row["completion"], add_special_tokens=False)["input_ids"]
        assert made.unk_token_id not in ids and len(ids) == len(row["completion"].split())
        assert made.decode(ids) == row["completion"]
        assert made.convert_ids_to_tokens(ids) == world.words_of(row["completion"])


def test_rows_train_as_bos_prompt_response_eos_in_text_and_in_chat(tmp_path: Path) -> None:
    made = world_model.tokenizer()
    train, _ = world_rows.prompt_rows(train=30, heldout=0, seed=0)
    rows = [*world_rows.sft_rows(train, count=30, seed=0), *world_rows.copy_rows(count=30, seed=0)]
    chats = [
        {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"]}]}
        for r in rows
    ]
    found = []
    for name, lines in (("text", rows), ("chat", chats)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        found.append(load(str(file), tokenizer=made, kind="demos", max_dropped=0.0).examples)
    for row, text, chat in zip(rows, *found, strict=True):
        ids = [made.convert_tokens_to_ids(row[part].split()) for part in ("prompt", "completion")]
        assert text.prompt.tokens == chat.prompt.tokens == (made.bos_token_id, *ids[0])
        assert text.response.tokens == chat.response.tokens == (*ids[1], made.eos_token_id)


def test_model_size_and_saved_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaForCausalLM

    made = world_model.tokenizer()
    model = LlamaForCausalLM(world_model.model_config(made))
    assert 300_000 <= sum(p.numel() for p in model.parameters()) <= 800_000
    made.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == made.get_vocab() and again.chat_template == made.chat_template
    assert again("red lamp.")["input_ids"] == made("red lamp.")["input_ids"]


def test_stages_speak_the_words_of_runs() -> None:
    copy, reviews = world_model.SFT_STAGES
    assert (copy.corpus, reviews.corpus) == ("copy", "reviews")
    names = {f.name for f in fields(copy)} - {"corpus"}
    assert names <= {f.name for f in fields(RunConfig)}
    assert replace(copy, updates=3, rows_per_update=4).rows == 12
