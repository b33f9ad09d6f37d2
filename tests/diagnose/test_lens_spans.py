"""Marked characters on tokens: the overlap rule, white space, end tokens, cut answers, tokenizers that change text."""

from __future__ import annotations

import random

import pytest

from tests.diagnose.test_credit import rollout
from tokenward.data.encode import encoder
from tokenward.diagnose.lens.credit import pieces, silent
from tokenward.diagnose.lens.spans import Span, marks, read_spans
from tokenward.errors import InputError

SKY = ["the", " sky", " is", " green", ".", "<eos>"]
TEXT = "the sky is green."


def named(*spans, tokens=SKY, text=TEXT, silent=(5,)):
    return marks(tokens, [Span(*span) for span in spans], text=text, silent=silent)


@pytest.mark.parametrize(
    ("spans", "wrong"),
    [
        ([(11, 16, "fact")], ("", "", "", "fact", "", "")),  # the word alone: its token begins with a space
        ([(10, 17, "fact")], ("", "", "", "fact", "fact", "")),
        ([(4, 8, "a")], ("", "a", "", "", "", "")),  # ends in the space before "is": "is" is not wrong
        ([(7, 8, "a")], ("",) * 6),  # white space alone
        ([(5, 6, "a")], ("", "a", "", "", "", "")),  # one character is enough
        ([(0, 17, "a"), (11, 16, "b")], ("a", "a", "a", "a", "a", "")),  # as many of both: the first
        ([(8, 13, "a"), (11, 16, "b")], ("", "", "a", "b", "", "")),  # 2 of "green" are a's, 5 are b's
        ([(16, 99, "a")], ("", "", "", "", "a", "")),  # beyond the end
        ([], ("",) * 6),
    ],
)
def test_a_token_is_wrong_where_a_span_holds_one_of_its_letters(spans, wrong):
    assert named(*spans) == wrong


def test_the_end_token_is_never_wrong_even_if_its_name_stands_in_the_text():
    found = named((0, 8, "a"), tokens=["a", " <eos>", "<eos>"], text="a <eos>", silent=(2,))
    assert found == ("a", "a", "")


def test_white_space_and_case_may_differ_and_nothing_else():
    assert named((2, 4, "x"), tokens=[" A", "b", "\n c"], text="a  BC", silent=()) == ("", "x", "")
    assert named((0, 1, "x"), tokens=["a", "d"], text="ab", silent=()) is None
    assert named((0, 1, "x"), tokens=["a", "b", "c"], text="ab", silent=()) is None


def test_a_cut_answer_is_the_beginning_of_its_text():
    assert named((0, 5, "x"), tokens=["ab", " c"], text="ab cde fg", silent=()) == ("x", "x")


def test_the_first_bytes_of_a_character_are_as_wrong_as_its_last():
    assert named((1, 2, "x"), tokens=["a", "", "", "é", ""], text="aé", silent=(4,)) == ("", "x", "x", "x", "")
    assert named((1, 2, "x"), tokens=["a", "", "b"], text="ab", silent=()) == ("", "", "x")


@pytest.mark.parametrize("kind", ["spaced", "chatty", "worded"])
def test_on_real_tokenizers_the_tokens_with_letters_of_a_span_are_wrong_and_no_others(kind, request):
    tokenizer = request.getfixturevalue(kind)
    known = encoder(tokenizer)
    draw, placed = random.Random(0), 0
    choices = ["the", "cat", "sat"] * 8 if kind == "worded" else ["time", "a", "me", "tim", "be"]
    for _ in range(50):
        words = [draw.choice([*choices, "I"]) for _ in range(6)]  # "worded" does not know "I"
        text = " ".join(words)
        ids = tokenizer.encode(text, add_special_tokens=False)
        written = pieces(tokenizer, rollout((), (*ids, tokenizer.eos_token_id)))
        start = draw.randrange(len(text))
        end = draw.randint(start + 1, len(text))
        quiet = silent((*ids, tokenizer.eos_token_id), control=known.control)
        found = marks(written, [Span(start, end, "x")], text=text, silent=quiet)
        if found is None:  # a word that the tokenizer does not know
            assert tokenizer.unk_token_id in ids
            continue
        letters = iter(start <= at < end for at, letter in enumerate(text) if letter != " ")
        held = [[next(letters) for _ in token.replace(" ", "")] for token in written[:-1]]
        assert [bool(mark) for mark in found] == [any(token) for token in held] + [False]
        assert not any(letters)  # the tokens have all letters
        placed += 1
    assert placed >= 25


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "f:1: spans must be a list"),
        ([[0, 1]], r"a span is \[start, end, name\]"),
        ([[0, 1.5, "a"]], "a span is"),
        ([[0, 1, ""]], "a span is"),
        ([[True, 1, "a"]], "a span is"),
        ([[2, 2, "a"]], "0 ≤ start < end"),
        ([[-1, 2, "a"]], "0 ≤ start < end"),
    ],
)
def test_spans_that_are_none_are_refused_in_one_line(value, message):
    with pytest.raises(InputError, match=message) as found:
        read_spans(value, where="f:1")
    assert "\n" not in str(found.value)


def test_a_span_that_ends_behind_its_text_is_refused():
    assert read_spans([[5, 9, "x"]], where="f:1", size=9) == (Span(5, 9, "x"),)
    with pytest.raises(InputError, match=r"f:1: a span ends in the text, of 9 characters, got \[5, 900, 'x'\]"):
        read_spans([[5, 900, "x"]], where="f:1", size=9)
