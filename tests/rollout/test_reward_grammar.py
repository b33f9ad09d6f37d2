"""rollout/rewards: what --reward may say, the checkers, and sums with weights."""

from __future__ import annotations

import random
import zipfile
from fractions import Fraction

import pytest
import yaml

from tests.rewarded import PROMPTS, ROLLOUTS, rollout, scores
from tests.tiny import EOS, saved, tiny, word_tokenizer
from tokenward.data.tokenize import Prompt
from tokenward.errors import InputError
from tokenward.models.save import save_reward_model
from tokenward.rollout.rewards import Combined, FunctionReward, ModelReward, check, described, judge, logged, reward
from tokenward.rollout.rewards.answer import Answer
from tokenward.rollout.rewards.grammar import parse
from tokenward.rollout.rewards.lexicon import read_lexicon
from tokenward.rollout.rewards.number import MOST, answer, numbers

TOKENIZER = word_tokenizer()


def made(spec: str, **more: object):
    return reward(spec, tokenizer=TOKENIZER, **more)


# --- numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 72", "72"),
        ("a 3\n#### 1,234 eggs of 5\n6", "1234"),
        ("#### none\n7", None),
        ("first #### 1 then #### 2", "2"),
        ("she had 5 and 7.", "7"),
        ("it is $1,200.50!", "2401/2"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("\u22125 degrees", "-5"),
        ("+5", "5"),
        ("9-5", "5"),
        ("(3)-5", "5"),
        ("50%-5", "5"),
        ("x=-5", "-5"),
        ("50%", "50"),
        ("12kg", "12"),
        ("7.", "7"),
        ("7.50", "15/2"),
        (".5", "1/2"),
        ("is...72", "72"),
        ("3/4 of it", "3/4"),
        ("on 12/05/2020", "2020"),
        ("5/0", "0"),
        ("1 1/2", "1/2"),
        ("2e-3", "1/500"),
        ("1e1234", "1"),
        ("1,23", "23"),
        ("1,2345", "2345"),
        ("1.2.3", "6/5"),
        ("B12", None),
        ("COVID-19", "19"),
        ("\\boxed{72}", "72"),
        ("**72**", "72"),
        ("007", "7"),
        ("seventy two", None),
        ("", None),
        ("9" * MOST, "9" * MOST),
        ("4 or " + "9" * (MOST + 1), "4"),
        ("\u0667", None),  # digits of other scripts are not read
    ],
)
def test_the_answer_of_a_text(text, value):
    assert answer(text) == (None if value is None else Fraction(value))


def slow_numbers(text: str) -> list[Fraction]:
    """The rules of number.py, one character at a time."""
    digits = "0123456789"

    def run(start: int) -> int:
        while start < len(text) and text[start] in digits:
            start += 1
        return start

    def at(place: int) -> str:
        return text[place] if 0 <= place < len(text) else " "

    def word(char: str) -> bool:
        return char.isalnum() or char == "_"

    def exponent(stop: int) -> int:
        if at(stop) not in "eE":
            return stop
        first = stop + 1 + (at(stop + 1) in "+-")
        last = run(first)
        return last if 1 <= last - first <= 3 and not word(at(last)) else stop

    found, place = [], 0
    while place < len(text):
        start, char, before = place, text[place], at(place - 1)
        place += 1
        if word(before) or (before == "." and at(start - 2) in digits):
            continue
        if char == ".":
            stop = run(start + 1)
            if stop == start + 1 or before == ".":
                continue
            stop = exponent(stop)
        elif char in digits:
            stop = run(start)
            below = run(stop + 1) if at(stop) == "/" else stop
            fraction = below > stop + 1 and int(text[stop + 1 : below]) > 0 and before != "/"
            if fraction and at(below) != "/" and not (at(below) == "." and at(below + 1) in digits):
                stop = below
            else:
                if stop - start <= 3:
                    group = stop
                    while at(group) == "," and run(group + 1) >= group + 4:
                        group += 4
                        if at(group) not in digits:
                            stop = group
                        else:
                            break
                if at(stop) == "." and at(stop + 1) in digits:
                    stop = run(stop + 1)
                stop = exponent(stop)
        else:
            continue
        place = stop
        sign, back = 1, start - 1
        if at(back) in "$€£":
            back -= 1
        if at(back) in "-\u2212" and not word(at(back - 1)) and at(back - 1) not in ")]%":
            sign = -1
        found.append(sign * Fraction(text[start:stop].replace(",", "")))
    return found


def test_numbers_are_those_of_a_slow_reading():
    source = random.Random(0)
    pieces = [
        *"0123456789",
        *"00112",
        ",",
        ",",
        ".",
        ".",
        "/",
        "-",
        "-",
        "+",
        "\u2212",
        "$",
        "%",
        "e",
        "E",
        " ",
        " ",
        "(",
    ]
    pieces += [")", "]", "B", "_", "\n", "#", "é", "000", "123", ",456", "1,000", "e-2", "3/4"]
    texts = ["".join(source.choices(pieces, k=source.randint(1, 14))) for _ in range(5_000)]
    seen = 0
    for text in texts:
        want = slow_numbers(text)
        assert list(numbers(text)) == want, text
        seen += len(want)
        assert answer(text.replace("#", "")) == (lambda found: found[-1] if found else None)(
            slow_numbers(text.replace("#", ""))
        ), text
    assert seen > 5_000


def test_long_texts_are_read_in_time_that_grows_with_them():
    for text in ("9" * 200_000, "1," * 100_000, "1/" * 100_000, "-" * 200_000, "1,111" * 40_000, "1e1" * 60_000):
        answer(text)  # minutes, if any of it were quadratic


# --- checkers ----------------------------------------------------------------------------------------------------


def test_answers_are_compared_exactly():
    gold = Prompt(0, (), "", {"n": "… #### 0.30", "m": 7, "x": 0.25, "words": "many"})
    assert Answer("n").check("so 0.3", gold)[0] == Answer("n").check("3/10", gold)[0] == 1.0
    assert Answer("n").check("so 0.30000000000000004", gold) == (0.0, {"parsed": 1.0})
    assert Answer("n").check("no idea", gold) == (0.0, {"parsed": 0.0})
    assert Answer("m").check("7.0", gold)[0] == Answer("x").check(".25", gold)[0] == 1.0


def test_answers_of_rows_without_one_are_errors():
    with pytest.raises(InputError) as error:
        made("answer:gold").score(ROLLOUTS, PROMPTS)
    assert str(error.value) == ("reward answer: row 0 (prompt data.jsonl:4) has no column 'gold'. Known: answer.")
    with pytest.raises(InputError, match=r"row 0 \(prompt data.jsonl:4\) has no number in column 'answer': 'w9'"):
        made("answer:answer").score(ROLLOUTS, PROMPTS)
    odd = {3: Prompt(3, (), "", {"answer": [7]})}
    with pytest.raises(InputError, match=r"row 0 \(prompt 3\) has no number in column 'answer': \[7\]"):
        made("answer:answer").score(ROLLOUTS[:1], odd)


def test_patterns_must_be_found_or_must_not():
    assert scores(made(r"regex:w1[01]$")) == [1.0, 1.0, 0.0]
    assert scores(made(r"regex-not:w1[01]$")) == [0.0, 0.0, 1.0]
    assert scores(made(r"regex:W9|w12")) == [0.0, 0.0, 1.0]
    assert scores(made(r"regex:(?i)W9|w12")) == [1.0, 0.0, 1.0]


def test_lengths_against_a_limit_and_a_target():
    """Lengths 3, 2, 3, end token included; tokens of an environment do not count."""
    assert scores(made("length:2")) == [-0.5, 0.0, -0.5]
    assert scores(made("length:4")) == [0.0, 0.0, 0.0]
    assert scores(made("length:4|target")) == [-0.25, -0.5, -0.25]
    assert scores(made("length:2|target"), [rollout(8, 4, 4, 12, trainable=(True, False, True))]) == [0.0]


def test_what_never_stopped_is_punished():
    assert scores(made("stop:2.5")) == [0.0, 0.0, -2.5]


def lexicon(tmp_path, text):
    file = tmp_path / "words.txt"
    file.write_text(text, encoding="utf-8")
    return file


def test_weights_of_words_as_mean_and_sum(tmp_path):
    tok = word_tokenizer()
    tok.decode = lambda ids, **_: " ".join("Don't glad sad re-do 9".split()[i - 3] if i > 2 else "" for i in ids)
    file = lexicon(tmp_path, "glad\t2.0\t0.5\t[1, 3]\n\nsad  -1\n:-)\t4\ndon't\t0.5\nre-do\t8\n")
    texts = [rollout(3, 4, 4, 5, EOS), rollout(3, 3, 6, 7, EOS), rollout(3, EOS)]
    assert scores(reward(f"lexicon:{file}", tokenizer=tok), texts) == [1.0, 4.25, 0.0]  # "9" is no word
    got = reward(f"lexicon:{file}|sum", tokenizer=tok).score(texts, PROMPTS)
    assert [r.score for r in got] == [3.0, 8.5, 0.0]
    assert [r.parts for r in got] == [{"known": 3.0}, {"known": 2.0}, {"known": 0.0}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("glad\n", "words.txt:1: wanted a word, a tab or blanks, and its weight, got 'glad'"),
        ("glad 2\nsad much\n", "words.txt:2: wanted a word, a tab or blanks, and its weight, got 'sad much'"),
        ("glad nan\n", "words.txt:1: wanted a word"),
        (":-)\t4\n", "words.txt holds no word: give lines of a word, a tab or blanks, and its weight"),
    ],
)
def test_lexicons_that_cannot_be_read(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        made(f"lexicon:{lexicon(tmp_path, text)}")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_vader_lexicon_is_read(shared, tmp_path):
    with zipfile.ZipFile(shared / "data" / "sentiment" / "vader_lexicon.zip") as archive:
        name = next(n for n in archive.namelist() if n.endswith("vader_lexicon.txt"))
        weights = read_lexicon(lexicon(tmp_path, archive.read(name).decode("utf-8")))
    assert (weights["happy"], weights["sad"], weights["fav"]) == (2.7, -2.1, 2.0)  # fav stands twice: the last counts
    assert len(weights) > 7000


# --- what --reward may say ---------------------------------------------------------------------------------------


def test_parts_weights_and_names():
    found = parse("0.7*runs/rm/model + -.5 * short.py:score + 1e-1*answer:gold + regex-not:^a+b$ + length:9|target")
    assert [(p.weight, p.kind, p.arguments, p.name) for p in found] == [
        (0.7, "model", ("runs/rm/model",), "rm"),
        (-0.5, "function", ("short.py", "score"), "score"),
        (0.1, "answer", ("gold",), "answer"),
        (1.0, "regex-not", ("^a+b$",), "regex_not"),
        (1.0, "length", ("9", "target"), "length"),
    ]
    assert [p.name for p in parse("a.py:f + runs/x + b.py:f + x/model")] == ["f_1", "x_1", "f_2", "x_2"]
    assert parse(" implicit:a | b | 0.1 | tokens ")[0].arguments == ("a", "b", "0.1", "tokens")


def test_quotes_take_what_stands_in_them_as_it_is():
    found = parse("""0.5*regex:'a + b' + 2*"3*odd dir/model" + regex-not:it's""")
    assert [(p.weight, p.kind, p.arguments[0]) for p in found] == [
        (0.5, "regex", "a + b"),
        (2.0, "model", "3*odd dir/model"),
        (1.0, "regex-not", "it's"),
    ]
    assert [p.arguments for p in parse("""regex:'a + b' + '3*x'""")] == [("a + b",), ("3*x",)]
    assert parse("'answer:odd'")[0].kind == "model"  # quoted from its beginning: a path
    assert parse("regex:a|b")[0].arguments == ("a|b",)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "reward '': part 1 is empty: write a source"),
        ("runs/rm + ", "reward 'runs/rm + ': part 2 is empty: write a source"),
        ("0.5*", "reward '0.5*': part 1 is empty: write a source"),
        ("answer:", "reward 'answer:': part 1 is empty: write answer:COLUMN"),
        ("0*rm", "reward '0*rm': part 1 has the weight 0: give a number that is not 0, or leave the part out"),
        ("1e999*rm",
         "reward '1e999*rm': part 1 has the weight 1e999: give a number that is not 0, or leave the part out"),
        ("rm + regx:a",
         "reward 'rm + regx:a': part 2 has the unknown prefix 'regx:'. Did you mean 'regex'? A path with a "
         "colon is quoted"),
        ("regex:'a",
         'reward "regex:\'a": part 1 opens a quote \' that does not close at its end: quote it with the other sign'),
        ("length:1|2|3",
         "reward 'length:1|2|3': part 1 must be length:TOKENS|[limit or target] (the last in brackets may be "
         "left out), got '1|2|3'"),
        ("implicit:a|b",
         "reward 'implicit:a|b': part 1 must be implicit:POLICY|REFERENCE|BETA|[sum or tokens] (the last in "
         "brackets may be left out), got 'a|b'"),
        ("implicit:a||1",
         "reward 'implicit:a||1': part 1 must be implicit:POLICY|REFERENCE|BETA|[sum or tokens] (the last in "
         "brackets may be left out), got 'a||1'"),
        ("length:few", "reward length:few: wanted a whole number of tokens, got 'few'"),
        ("length:0", "reward length:0: length must be 1 token or more, got 0"),
        ("length:9|most", "reward length:9|most: unknown word 'most'. Known: limit, target."),
        ("stop:-1", "reward stop:-1: stop must be a penalty above 0, got -1"),
        ("stop:nan", "reward stop:nan: stop must be a penalty above 0, got nan"),
        ("regex:(",
         "reward regex:(: '(' is not a regular expression: missing ), unterminated subpattern at position 0"),
        ("implicit:a|b|0", "reward implicit:a|b|0: β must be above 0, got 0"),
        ("implicit:a|b|x", "reward implicit:a|b|x: wanted β, a number, got 'x'"),
        ("implicit:a|b|1|token", "reward implicit:a|b|1|token: unknown word 'token'. Did you mean 'tokens'?"),
        ("lexicon:gone.txt",
         "reward lexicon:gone.txt: lexicon gone.txt cannot be read: [Errno 2] No such file or directory: 'gone.txt'"),
        ("rm + gone.py:f", "reward gone.py:f: no file gone.py"),
        ("gone.py", "reward gone.py names no function; write gone.py:function"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line_before_any_model_is(spec, message):
    with pytest.raises(InputError) as error:
        check(spec)
    assert str(error.value) == message


def test_the_time_out_is_for_functions(tmp_path):
    with pytest.raises(InputError) as error:
        check("regex:a + length:9", timeout_s=3.0)
    assert str(error.value) == (
        "reward_timeout_s limits functions, and reward 'regex:a + length:9' has none: leave it out"
    )
    with pytest.raises(InputError, match="reward_timeout_s = 3 limits a reward, and there is none: leave it out"):
        judge(None, tokenizer=TOKENIZER, dtype="float32", device="cpu", timeout_s=3.0)
    (tmp_path / "a.py").write_text("def f(p, c, k):\n    return [1.0] * len(c)\n")
    with pytest.raises(InputError, match="reward_timeout_s must be above 0 and finite, got 0"):
        check(f"{tmp_path}/a.py:f", timeout_s=0.0)
    assert judge(None, tokenizer=TOKENIZER, dtype="float32", device="cpu", timeout_s=None) is None


def test_settings_are_told_with_their_weights():
    assert described("0.7*runs/rm/model + -2*stop:1.5 + short.py:score") == (
        "reward = 0.7 × rm (model runs/rm/model) − 2 × stop (stop:1.5) + 1 × score (function short.py:score)"
    )


def test_specs_come_out_of_yaml_as_they_are_written():
    spec = yaml.safe_load("reward: 0.7*runs/rm/model + 0.3*short.py:score + regex:'a + b'\n")["reward"]
    assert [p.name for p in parse(spec)] == ["rm", "score", "regex"]
    assert parse(yaml.safe_load("reward: |\n  regex:a +\n  stop:1\n")["reward"]) == parse("regex:a + stop:1")


# --- sums --------------------------------------------------------------------------------------------------------


def test_a_sum_weighs_scores_and_tokens_and_logs_its_parts_without_weights(tmp_path):
    (tmp_path / "a.py").write_text("def f(p, c, k):\n    return [{'tokens': [1] * n, 'odd': 7} for n in (3, 2, 3)]\n")
    spec = f"2*{tmp_path}/a.py:f + -0.5*length:2 + stop:1"
    source = made(spec)
    assert isinstance(source, Combined)
    before = [rollout(8, 4, 4, 12, score=10.0, parts={"goal": 1.0}, rewards=(5.0, 0.0, 0.0))]
    got = source.score([*ROLLOUTS[:2], *before], PROMPTS)
    assert [r.score for r in got] == [0.25, 0.0, 10 + 0.25 - 1]
    assert [r.rewards for r in got] == [(2.0,) * 3, (2.0,) * 2, (7.0, 2.0, 2.0)]
    assert got[0].parts == {"f": 3.0, "f/odd": 7.0, "length": -0.5, "stop": 0.0}
    assert got[2].parts == {"goal": 1.0, "f": 3.0, "f/odd": 7.0, "length": -0.5, "stop": -1.0}
    assert logged(got)["reward/f"] == pytest.approx(8 / 3)
    assert logged(got)["reward/stop_std"] == pytest.approx((2 / 9) ** 0.5)


def test_a_sum_is_the_sum_of_its_parts(tmp_path):
    model = save_reward_model(tiny(value_head=True), TOKENIZER, tmp_path / "rm" / "model")
    (tmp_path / "a.py").write_text("def f(p, c, k):\n    return [float(len(t)) for t in c]\n")
    alone = [scores(made(spec)) for spec in (str(model), f"{tmp_path}/a.py:f", "regex:w9")]
    got = made(f"0.7*{model} + 0.3*{tmp_path}/a.py:f + 10*regex:w9").score(ROLLOUTS, PROMPTS)
    want = [0.7 * a + 0.3 * b + 10 * c for a, b, c in zip(*alone, strict=True)]
    assert [r.score for r in got] == pytest.approx(want)
    assert [r.parts["rm"] for r in got] == pytest.approx(alone[0])
    assert set(got[0].parts) == {"rm", "f", "regex"}


def test_one_source_alone_stays_what_it_is(tmp_path):
    (tmp_path / "a.py").write_text("def f(p, c, k):\n    return [1.0] * len(c)\n")
    assert isinstance(made(f"{tmp_path}/a.py:f"), FunctionReward)
    assert isinstance(made(f"2*{tmp_path}/a.py:f"), Combined)
    model = save_reward_model(tiny(value_head=True), TOKENIZER, tmp_path / "rm")
    assert isinstance(made(str(model)), ModelReward)
    with pytest.raises(InputError, match="is not a reward model"):
        made(f"stop:1 + {saved(tmp_path / 'policy')}")


def test_a_part_that_fails_is_named():
    with pytest.raises(InputError, match=r"reward answer: row 0 \(prompt data.jsonl:4\) has no number in column"):
        made("stop:1 + 0.5*answer:answer").score(ROLLOUTS, PROMPTS)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("rew.py:happy+length:8", "part 1 has a + without blanks around it"),
        ("runs/rm+length:8", "part 1 has a + without blanks around it"),
        ("length:8+rew.py:f", "part 1 has a + without blanks around it"),
        ("stop:2 + 0.5*rew.py:f+0.5*length:8", "part 2 has a + without blanks around it"),
        ("0.5*0.5*rew.py:f", "part 1 has two weights, 0.5 and 0.5: give their product"),
        ("nan*rew.py:f", "part 1 has the weight 'nan': give a finite number"),
        ("half*length:8", "part 1 has the weight 'half': give a finite number"),
    ],
)
def test_a_glued_plus_and_a_wrong_weight_are_said(spec: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        parse(spec)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    [
        "c++/f.py:g",
        "runs/a+b",
        "stop:1e+5",
        "regex:a+b",
        "'a*b/c.py:f'",
        "lexicon:w+x.txt",
        "lexicon:e+f.json",
        "lexicon:runs/my+length:v2.json",
    ],
)
def test_a_plus_or_a_star_within_a_source_stays(spec: str) -> None:
    (part,) = parse(spec)
    assert part.weight == 1 and part.text == spec.strip("'")
