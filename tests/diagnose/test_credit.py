"""Token credit against plain forwards and by hand; what it finds; its file."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch

from tests.tiny import BOS, EOS, PAD, tiny, word_tokenizer
from tokenward.diagnose.lens.credit import finds, pieces, token_credit
from tokenward.diagnose.lens.rows import Alternative, TokenRow, read_rows, write_rows
from tokenward.diagnose.measures.intervals import area
from tokenward.errors import InputError
from tokenward.types import Rollout


def rollout(prompt, response, *, number=0):
    n = len(response)
    return Rollout(number, tuple(prompt), tuple(response), (True,) * n, (0.0,) * n, "stop")


TEXTS = [
    rollout((BOS, 4, 9), (7, 8, EOS)),
    rollout((BOS,), (5, 6, 7, 11, EOS), number=1),
    rollout((BOS, 3), (EOS,), number=2),
]


def conditional(model, prompt, response):
    """log π of each response token by one forward of the bare model."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        law = model.causal_lm(input_ids=ids).logits.log_softmax(-1)[0]
    return [float(law[len(prompt) + i - 1, token]) for i, token in enumerate(response)]


def test_credit_is_the_scaled_log_ratio_of_each_token():
    policy, reference = tiny(seed=0), tiny(seed=1)
    found = token_credit(policy, reference, TEXTS, beta=0.3, pad_id=PAD)
    for text, credit in zip(TEXTS, found, strict=True):
        ours = conditional(policy, text.prompt_tokens, text.response_tokens)
        theirs = conditional(reference, text.prompt_tokens, text.response_tokens)
        assert credit == pytest.approx([0.3 * (a - b) for a, b in zip(ours, theirs, strict=True)], abs=1e-5)


def test_a_policy_that_is_its_reference_gives_no_credit():
    assert {x for row in token_credit(tiny(), tiny(), TEXTS, beta=1.0, pad_id=PAD) for x in row} == {0.0}
    assert token_credit(tiny(), tiny(), [], beta=1.0, pad_id=PAD) == []


def auc(positives, negatives):
    return area([*positives, *negatives], [True] * len(positives) + [False] * len(negatives), draws=2).auc


def test_auc_by_hand():
    """Pairs (positive, negative): (3,2) won, (3,3) tie, (1,2) lost, (1,3) lost: 1.5 of 4."""
    assert auc([3.0, 1.0], [2.0, 3.0]) == 0.375
    assert auc([1.0, 1.0], [1.0]) == 0.5
    assert auc([2.0], [1.0]) == 1.0 and auc([1.0], [2.0]) == 0.0
    assert math.isnan(auc([], [1.0])) and math.isnan(auc([1.0], []))


def test_auc_counts_won_pairs_and_half_the_ties():
    draw = random.Random(0)
    for _ in range(20):
        p, n = ([float(draw.randint(0, 6)) for _ in range(draw.randint(1, 9))] for _ in range(2))
        won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(p, n)]
        assert auc(p, n) == pytest.approx(sum(won) / len(won))


def test_low_credit_finds_wrong_tokens_among_slots_only():
    """Slots: credits −2 (wrong), 1, −1, 0 (wrong): pairs won (−2<1, −2<−1, 0<1), lost (0>−1): 3 of 4."""
    credit = [(-9.0, -2.0, 1.0), (-1.0, 0.0, 9.0)]
    wrong = [(False, True, False), (False, True, True)]
    slots = [(False, True, True), (True, True, False)]
    found = finds(credit, wrong=wrong, slots=slots)
    assert (found.auc, found.positives, found.negatives) == (0.75, 2, 2)


def test_the_interval_draws_whole_texts():
    """Twenty copies of two texts that disagree: by tokens the AUC looks sure, by texts it does not."""
    scores = [1.0, 0.0] * 20 + [0.0, 1.0] * 20
    labels = [True, False] * 40
    owners = [0] * 40 + [1] * 40
    by_text, by_token = area(scores, labels, clusters=owners), area(scores, labels)
    assert by_text.auc == by_token.auc == 0.5
    assert (by_text.low, by_text.high) == (0.0, 1.0)
    assert 0.3 < by_token.low < 0.5 < by_token.high < 0.7


def test_the_interval_is_that_of_texts_written_as_often_as_they_were_drawn():
    """Each draw by hand: the pairs won among the tokens of the drawn texts, every copy of a text for itself."""
    draw = random.Random(0)
    owners = [draw.randrange(6) for _ in range(30)]
    scores = [float(draw.randint(0, 5)) for _ in owners]
    labels = [draw.random() < 0.4 for _ in owners]
    names = list(dict.fromkeys(owners))
    chosen = torch.randint(len(names), (50, len(names)), generator=torch.Generator().manual_seed(3))
    drawn = []
    for row in chosen.tolist():
        tokens = [t for i in row for t, owner in enumerate(owners) if owner == names[i]]
        pairs = [(scores[a], scores[b]) for a in tokens for b in tokens if labels[a] and not labels[b]]
        drawn += [sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)] if pairs else []
    low, high = np.quantile(drawn, [0.05, 0.95]).tolist()
    found = area(scores, labels, clusters=owners, draws=50, level=0.9, seed=3)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    with pytest.raises(InputError, match="2 scores, 1 labels and 2 clusters"):
        area([1.0, 2.0], [True])


def test_the_interval_holds_the_truth_and_is_reproducible():
    draw = torch.Generator().manual_seed(0)
    labels = (torch.rand(400, generator=draw) < 0.4).tolist()
    noise = torch.randn(400, generator=draw).tolist()
    scores = [x + 1.0 * label for x, label in zip(noise, labels, strict=True)]
    found = area(scores, labels)
    truth = 0.5 * (1 + math.erf(1 / 2))  # Φ(1/√2) for two unit normals one apart
    assert found.low < truth < found.high and found.low < found.auc < found.high
    assert found == area(scores, labels) != area(scores, labels, seed=1)


def test_an_area_without_positives_is_not_a_number():
    found = area([1.0, 2.0], [False, False])
    assert math.isnan(found.auc) and math.isnan(found.low) and found.negatives == 2
    assert math.isnan(area([], []).high)


def test_pieces_put_together_are_the_text():
    tok = word_tokenizer()
    found = pieces(tok, TEXTS[0])
    assert found[-1] == "<eos>"
    assert "".join(found[:-1]).split() == ["w7", "w8"]
    assert "".join(found[:-1]) == tok.decode([4, 9, 7, 8])[len(tok.decode([4, 9])) :]


ROWS = [
    TokenRow("a <b> & ü", (" x", "<eos>"), {"credit": (0.5, -1.25)}, wrong=("", "repeat")),
    TokenRow("", ("y",), {"credit": (0.0,)}),
    TokenRow(
        "p",
        ("a", "b"),
        {"kl": (None, 0.5)},
        {"reward": 1.5},
        "f.jsonl:3",
        0,
        "chosen",
        None,
        (0, 1),
        (-1, 0),
        ((Alternative("a", -0.1, -2.0),), (Alternative("c", -1.0), Alternative("b", -2.0))),
    ),
]


def test_rows_survive_their_file(tmp_path):
    path = tmp_path / "credit.jsonl"
    write_rows(path, ROWS)
    assert read_rows(path) == ROWS
    assert json.loads(path.read_text().splitlines()[0])["tokens"] == [" x", "<eos>"]


BIG = 10**400
HOSTILE = [
    ({"values": {"credit": [math.inf]}}, "credit: inf is not a finite number"),
    ({"values": {"credit": [BIG]}}, "int too large"),
    ({"values": {"credit": [True]}}, "credit must hold numbers, got True"),
    ({"values": []}, "values must be an object"),
    ({"totals": {"credit": -math.inf}}, "credit: -inf is not a finite number"),
    ({"totals": {"credit": "1"}}, "credit must hold numbers"),
    ({"segment": [math.inf]}, "segment must be a whole number, got inf"),
    ({"actor": [True]}, "actor must be a whole number"),
    ({"actor": [0.5]}, "actor must be a whole number"),
    ({"wrong": [1]}, "wrong must be text"),
    ({"tokens": "a"}, "tokens must be a list, got 'a'"),
    ({"tokens": [1]}, "tokens must be text"),
    ({"prompt": None}, "prompt must be text"),
    ({"where": 3}, "where must be text, got 3"),
    ({"pair": -1}, "pair must be 0 or more, got -1"),
    ({"pair": 1.0}, "pair must be a whole number"),
    ({"pair": False}, "pair must be a whole number"),
    ({"side": "left"}, 'side must be "chosen" or "rejected", got \'left\''),
    ({"side": ["chosen"]}, "side must be"),
    ({"alternatives": [[["a"]]]}, r"one of alternatives is \[text, log π\]"),
    ({"alternatives": [[["a", -1.0, -2.0, -3.0]]]}, "one of alternatives is"),
    ({"alternatives": [[["a", math.nan]]]}, "alternatives: nan is not a finite number"),
    ({"alternatives": [["ab"]]}, "alternatives must be a list"),
]


def hostile(**fields):
    return json.dumps({"prompt": "p", "tokens": ["a"], "values": {"credit": [0.5]}, **fields})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"rows.jsonl:1: not a text token by token"),
        ("[1]", r"rows.jsonl:1: not a text token by token"),
        ('{"prompt": "p", "tokens": ["a"]}', r"rows.jsonl:1: not a text token by token .*: 'values'"),
        ('{"prompt": "p", "tokens": ["a"], "values": {"credit": [NaN]}}', r"rows.jsonl:1: .* not a finite number"),
        ('{"prompt": "p", "tokens": ["a"], "values": {"credit": ["x"]}}', r"rows.jsonl:1: not a text token by token"),
        (
            '{"prompt": "p", "tokens": ["a"], "values": {"credit": [1, 2]}}',
            r"rows.jsonl:1: a row has 1 tokens and 2 of credit",
        ),
        pytest.param("[" * 100_000, r"rows.jsonl:1: not a text token by token .*recursion", id="deep"),
        *((hostile(**fields), f"rows.jsonl:1: not a text token by token .*: {message}") for fields, message in HOSTILE),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        read_rows(path)


def test_a_line_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(hostile().encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(InputError, match=r"rows.jsonl:2: not a text token by token .*utf-8.*0xff"):
        read_rows(path)
