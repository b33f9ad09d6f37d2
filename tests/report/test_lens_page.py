"""The page of texts token by token: escaped, allowed exactly its own script, true to its rows within four digits."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import math
import random
import shutil
import struct
import subprocess
import zlib
from importlib.resources import files
from pathlib import Path

import pytest

from tokenward.diagnose.lens.rows import MEANINGS, Alternative, TokenRow, write_rows
from tokenward.errors import InputError
from tokenward.report.lens.page import SCRIPTS, first, write_lens

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!-- & \"q\" 'p'"
KINDS = {"int8": ("b", 1), "int16": ("h", 2), "int32": ("i", 4), "float64": ("d", 8)}


class Page(html.parser.HTMLParser):
    """Tags, what the scripts and styles hold, and the text besides."""

    VOID = frozenset({"meta", "input", "br"})

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.text, self.code = [], [], "", []
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.code.append((tag, dict(attrs), []))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["script"], ["style"]):
            self.code[-1][2].append(data)
        else:
            self.text += data

    def inside(self, tag, **attributes):
        (found,) = ["".join(data) for name, attrs, data in self.code if name == tag and attrs == attributes]
        return found


class Blob:
    """The rows as the page holds them, read by the format alone."""

    def __init__(self, path):
        raw = zlib.decompress(
            base64.b64decode(Page(path).inside("script", type="text/plain", id="blob"), validate=True)
        )
        (length,) = struct.unpack("<I", raw[:4])
        self.head, at, self.columns = json.loads(raw[4 : 4 + length]), 4 + length, {}
        for name, kind, count in self.head["columns"]:
            letter, size = KINDS[kind]
            assert at % 8 == 0
            self.columns[name] = struct.unpack(f"<{count}{letter}", raw[at : at + count * size])
            at += -(-count * size // 8) * 8
        assert at == len(raw)

    def span(self, row):
        return slice(*self.columns["start"][row : row + 2])

    def values(self, name, row):
        span = self.span(row)
        pairs = zip(self.columns[f"m:{name}"][span], self.columns[f"e:{name}"][span], strict=True)
        return [None if m == -32768 else float(f"{m}e{e}") for m, e in pairs]

    def texts(self, name, row):
        strings = self.head["strings" if name == "token" else "kinds"]
        return tuple(strings[i] for i in self.columns[name][self.span(row)])

    def row(self, i):
        """Row i without its numbers."""
        strings, columns = self.head["strings"], self.columns
        whole = {name: columns[name][self.span(i)] for name in ("segment", "actor") if name in columns}
        pair, where = columns["pair"][i], columns["where"][i]
        return {
            "prompt": strings[columns["prompt"][i]],
            "tokens": self.texts("token", i),
            "where": None if where < 0 else strings[where],
            "pair": None if math.isnan(pair) else pair,
            "side": (None, "chosen", "rejected")[columns["side"][i]],
            **({"wrong": self.texts("wrong", i)} if "wrong" in columns else {}),
            **whole,
        }


def text(tokens=("a", " b", "."), **fields):
    values = {"credit": tuple(0.1 * (t - 1) for t in range(len(tokens)))}
    return TokenRow(**{"prompt": "p", "tokens": tuple(tokens), "values": values, **fields})


def written(tmp_path, rows, **options):
    return write_lens(rows, tmp_path / "page.html", **{"title": "t", **options})


def spread(rng, count):
    """Numbers of every size a double has, zeros and gaps among them."""
    found = [rng.choice((-1, 1)) * rng.uniform(1, 10) * 10.0 ** rng.randint(-299, 307) for _ in range(count - 4)]
    return (*found, 0.0, None, 0.99999, -99995.0)


# --- what may run -------------------------------------------------------------------------------------------------


def test_only_the_pages_own_script_and_style_are_allowed(tmp_path):
    page = Page(written(tmp_path, [text()]))
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    digest = lambda code: f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
    assert rules["default-src"] == ["'none'"] and "unsafe" not in policy
    assert rules["script-src"] == [digest(page.inside("script"))]
    assert rules["style-src"] == [digest(page.inside("style"))]
    order = [tag for tag, attrs in page.tags if attrs.get("http-equiv") or tag in ("style", "script")]
    assert order == ["meta", "style", "script", "script"]
    assert not any(name.startswith("on") or name in ("style", "src", "href") for _, a in page.tags for name in a)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_markup_of_texts_and_ask_for_nothing(name):
    code = files("tokenward.report.lens").joinpath(name).read_text(encoding="utf-8")
    for word in ("HTML", "eval", "new Function", "document.write", "fetch", "XMLHttp", "import ", "http", "</"):
        assert word not in code, word


def test_every_text_is_escaped(tmp_path):
    row = text(
        ("a", NASTY), prompt=NASTY, where=NASTY, wrong=("", NASTY), totals={NASTY: 1.0}, values={NASTY: (1.0, 2.0)}
    )
    page = Page(written(tmp_path, [row], title=NASTY, notes=[NASTY, "a \udcff name"]))
    assert page.text.count(NASTY) == 3 and "a ? name" in page.text  # title, heading, note
    assert [tag for tag, _ in page.tags].count("script") == 2 and "img" not in dict(page.tags)
    assert page.source.lower().count("</script") == 2


def test_without_scripts_a_line_says_so(tmp_path):
    page = Page(written(tmp_path, [text()]))
    assert "noscript" in dict(page.tags) and "allow scripts" in page.text


# --- what the page holds ------------------------------------------------------------------------------------------


def test_numbers_come_back_to_four_digits(tmp_path):
    rng = random.Random(0)
    values = {name: spread(rng, 40) for name in ("kl", "credit", "mine")}
    rows = [text(["x"] * 40, values=values), text(["y"] * 2, values={"credit": (None, 1e-320)})]
    blob = Blob(written(tmp_path, rows))
    assert [name["name"] for name in blob.head["names"]] == ["credit", "kl", "mine"]
    for name, column in values.items():
        for value, found in zip(column, blob.values(name, 0), strict=True):
            if not value:
                assert found == value
            else:
                unit = 10.0 ** (math.floor(math.log10(abs(value))) - 3)
                assert abs(found - value) <= 0.5001 * unit
    assert blob.values("credit", 1) == [None, 0.0] and blob.values("kl", 1) == [None, None]


def test_sums_are_made_before_rounding_and_averages_where_sums_say_nothing(tmp_path):
    column = (0.123456789, None, -1000.25, 3.0)
    rows = [text("abcd", values={"credit": column, "entropy": column}), text("a", values={"credit": (None,)})]
    blob = Blob(written(tmp_path, rows))
    assert blob.columns["sum:credit"][0] == math.fsum(v for v in column if v is not None)
    assert blob.columns["sum:entropy"][0] == pytest.approx(blob.columns["sum:credit"][0] / 3)
    assert math.isnan(blob.columns["sum:credit"][1]) and math.isnan(blob.columns["sum:entropy"][1])
    assert [name["whole"] for name in blob.head["names"]] == ["sum", "mean"]


def test_what_is_no_number_comes_back_as_it_was(tmp_path):
    tokens = (" ü", "\n\n", "", "汉字", "\ud83d", "\u202e\u2028", NASTY, "\x00")
    rows = [
        text(
            tokens, prompt="م\n", where="a.jsonl:1", pair=7, side="chosen", wrong=("", "e", *[""] * 6), segment=(0,) * 8
        ),
        text(tokens[:1], pair=7, side="rejected", actor=(1,)),
        text((), prompt=""),
    ]
    blob = Blob(written(tmp_path, rows))
    absent = {"wrong": "", "segment": 0, "actor": 0}  # a row that tells no model was written by one
    for i, row in enumerate(rows):
        wanted = {key: getattr(row, key) for key in ("prompt", "tokens", "where", "pair", "side")}
        for key, nothing in absent.items():
            column = getattr(row, key)
            wanted[key] = column if column is not None else (nothing,) * len(row.tokens)
        assert blob.row(i) == wanted


def test_columns_that_no_row_has_are_left_out(tmp_path):
    blob = Blob(written(tmp_path, [text()]))
    assert not {"wrong", "segment", "actor"} & set(blob.columns) and blob.head["totals"] == []


def test_totals_are_kept_unless_they_repeat_the_sum(tmp_path):
    rows = [text(totals={"credit": 0.0, "score": 1.5}), text(totals={"credit": 0.0})]
    blob = Blob(written(tmp_path, rows))
    assert [total["name"] for total in blob.head["totals"]] == ["score"]
    assert blob.columns["total:score"][0] == 1.5 and math.isnan(blob.columns["total:score"][1])
    other = Blob(written(tmp_path, [text(totals={"credit": 0.25})]))
    assert other.columns["total:credit"] == (0.25,)


def test_units_and_formulas_are_those_of_the_rows(tmp_path):
    blob = Blob(written(tmp_path, [text(values=dict.fromkeys(MEANINGS, (1.0, 2.0, 3.0)))]))
    for name in blob.head["names"]:
        meaning = MEANINGS[name["name"]]
        assert (name["label"], name["unit"], name["formula"]) == (meaning.label, meaning.unit, meaning.formula)


@pytest.mark.parametrize(
    ("values", "sign", "low", "high"),
    [
        ([*range(-50, 51)], "both", 0.0, None),
        ([*range(101)], "plus", 0.0, 95.0),
        ([-v for v in range(101)], "minus", 0.0, 95.0),
        ([100.0 + v for v in range(101)], "plus", 105.0, 195.0),  # far from 0: differences still show
        ([0.0] * 100 + [2.0], "plus", 0.0, 2.0),
        ([0.0], "plus", 0.0, 0.0),
        ([3.0], "plus", 0.0, 3.0),
        ([None], "both", 0.0, 0.0),
    ],
)
def test_colors_end_at_the_95th_percentile(tmp_path, values, sign, low, high):
    column = tuple(None if v is None else float(v) for v in values)
    (name,) = Blob(written(tmp_path, [text(["x"] * len(values), values={"credit": column})])).head["names"]
    sizes = sorted(abs(v) for v in values if v is not None)
    assert (name["sign"], name["low"]) == (sign, low)
    assert name["high"] == (sizes[95] if high is None else high)


def test_what_texts_can_be_sorted_by_has_their_length_once():
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    code = files("tokenward.report.lens").joinpath("items.js").read_text(encoding="utf-8")
    named = [{"name": name, "label": name} for name in ("length", "score")]
    asked = f"{code}\nconsole.log(measures({{names: [], totals: {json.dumps(named)}}}, []).map((way) => way[1]).join())"
    found = subprocess.run([node, "-e", asked], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "score,length (tokens)"


# --- limits -------------------------------------------------------------------------------------------------------


def test_alternatives_are_kept_for_two_hundred_texts(tmp_path):
    places = ((Alternative("x", -0.123456, -2.0), Alternative(" a", -9.0)), (), (Alternative("é", -1e-9, None),))
    plain, rich = text(), text(alternatives=places)
    blob = Blob(path := written(tmp_path, [plain, *[rich] * 205]))
    assert set(blob.head["alternatives"]) == {str(i) for i in range(1, 201)}
    assert "the first 200 of the 205 texts" in Page(path).text
    strings = blob.head["strings"]
    found = [[[strings[i], p, q] for i, p, q in place] for place in blob.head["alternatives"]["200"]]
    assert found == [[["x", -0.1235, -2.0], [" a", -9.0, None]], [], [["é", -1e-9, None]]]
    assert "200" not in Page(written(tmp_path, [rich] * 200)).text


def noisy(rng, pair, side):
    values = {name: tuple(rng.gauss(0, 1) for _ in range(60)) for name in [*MEANINGS][:6]}
    return TokenRow("p", tuple(f" w{rng.randrange(2000)}" for _ in range(60)), values, pair=pair, side=side)


def test_a_page_that_is_too_large_keeps_the_first_pairs(tmp_path):
    rng = random.Random(1)
    rows = [noisy(rng, pair, side) for pair in range(60) for side in ("chosen", "rejected")]
    whole = written(tmp_path, rows).stat().st_size
    assert whole <= 15e6 * len(rows) / 5000  # 5,000 texts stay below 15 MB
    limit = 0.6 * whole
    path = written(tmp_path, rows, notes=["mine"], most_bytes=int(limit))
    kept = Blob(path).head["rows"]
    assert path.stat().st_size <= limit and 30 < kept < 80 and kept % 2 == 0
    assert f"the first {kept} of 120 texts" in Page(path).text and "mine" in Page(path).text
    assert Blob(written(tmp_path, rows[:2], most_bytes=1)).head["rows"] == 1


def test_what_is_cut_ends_between_pairs():
    rows = [text(pair=i // 2, side=("chosen", "rejected")[i % 2]) for i in range(6)]
    assert [len(first(rows, count)) for count in range(8)] == [1, 1, 2, 2, 4, 4, 6, 6]
    assert len(first([text()] * 6, 3)) == 3
    steps = [text(pair=i // 4, side=("chosen", "rejected")[i // 2 % 2]) for i in range(8)]
    assert [len(first(steps, count)) for count in (4, 5, 6, 7, 8)] == [4, 4, 4, 4, 8]


def test_a_file_of_rows_gives_the_same_page(tmp_path):
    rows = [text(where="f.jsonl:1"), text(("z",), pair=0, side="chosen")]
    write_rows(tmp_path / "credit.jsonl", rows)
    pages = [written(tmp_path, source).read_text() for source in (tmp_path / "credit.jsonl", iter(rows), rows)]
    assert pages[0] == pages[1] == pages[2]


def test_no_rows_make_a_page(tmp_path):
    blob = Blob(written(tmp_path / "new" / "folder", []))
    assert blob.head["rows"] == 0 and blob.columns["start"] == (0,)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (text(values={"kl": (0.0, math.inf, 1.0)}), "row 1: kl holds a number that is not finite"),
        (text(segment=(0, 0, 2**40)), "too large for the page"),
        (text(values={"kl": (1e308, 1e308, 0.0)}), "row 1: the sum of kl is beyond the range"),
    ],
)
def test_what_the_page_cannot_hold_is_named(tmp_path, row, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path, [row])


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the page cannot be written"):
        write_lens([text()], tmp_path / "file" / "page.html", title="t")
