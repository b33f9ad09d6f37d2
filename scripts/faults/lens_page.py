"""Faults of the page of texts token by token: what it lets run, what it holds, where it stops."""

from __future__ import annotations

from faults.fault import Fault

LENS = "src/tokenward/report/lens"
PAGE = ("tests/report/test_lens_page.py",)

LENS_PAGE = [
    Fault(
        f"{LENS}/page.py",
        "title=escape(_writable(title))",
        "title=_writable(title)",
        "the title of a page is markup",
        PAGE,
    ),
    Fault(
        f"{LENS}/page.py",
        "script-src {digest(script)}",
        "script-src {digest(style)}",
        "the page forbids its own script",
        PAGE,
    ),
    Fault(
        f"{LENS}/page.py",
        "        count -= 1\n",
        "        count -= 0\n",
        "a page that is cut short ends within a pair",
        PAGE,
    ),
    Fault(
        f"{LENS}/pack.py",
        "m[np.isnan(values)] = MISSING",
        "m[np.isnan(values)] = 0",
        "a token without a number shows 0",
        PAGE,
    ),
    Fault(
        f"{LENS}/pack.py",
        "np.rint(m[over] / 10), power[over] + 1",
        "np.rint(m[over] / 10), power[over]",
        "numbers just below a power of ten are a tenth",
        PAGE,
    ),
    Fault(
        f"{LENS}/pack.py",
        "len(known) if name in AVERAGED and known else 1",
        "1",
        "entropies are summed, not averaged",
        PAGE,
    ),
    Fault(
        f"{LENS}/pack.py",
        "if row.alternatives is not None][:MOST_ALTERNATIVES]",
        "if row.alternatives is not None]",
        "other likely tokens are kept for every text",
        PAGE,
    ),
    Fault(
        f"{LENS}/pack.py",
        "np.percentile(np.abs(found), [5, 95]",
        "np.percentile(found, [5, 95]",
        "colors of numbers below 0 end at the wrong side",
        PAGE,
    ),
]
