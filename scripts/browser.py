"""Drives the page of texts token by token in a real browser: thousands of texts, hostile ones among them.

`python scripts/browser.py [--rows 5000] [--out FOLDER]` writes a page of made-up pairs, opens it in headless Chromium
as a file, and checks: first paint and first texts within 2 s, colors, pointer and keyboard, filter and sort,
the end of the list, no dialog, no error, bounded memory. Screenshots stay in FOLDER (runs/browser). It needs the
package `playwright` (the group `browser`) and a Chromium: $CHROMIUM, or one on the PATH. Exits 1 on any miss.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "scripts")]

from browser_rows import NASTY, corners, longest, pairs  # noqa: E402
from tokenward.diagnose.lens.rows import TokenRow, write_rows  # noqa: E402
from tokenward.report.lens.page import MOST_BYTES, write_lens  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAINT_S = 2.0
HEAP_BYTES = 300_000_000

Check = Callable[[str, bool, object], None]


def drive(page: Any, rows: list[TokenRow], out: Path, check: Check) -> None:
    """Everything a reader does, in one visit."""
    texts = f"{len(rows):,} of {len(rows):,} texts"
    check("all texts are counted", page.inner_text("#count").startswith(texts), page.inner_text("#count"))
    check("the title is text", NASTY in page.inner_text("h1"), page.inner_text("h1"))
    check("only what is near is drawn", page.locator(".item").count() < 40, page.locator(".item").count())
    page.screenshot(path=out / "1_first.png")
    same = page.locator(".text[data-r='0'] .t.same").count()
    most = longest(rows[0].tokens, rows[1].tokens)
    check("nearly as many tokens are aligned as can be", 0.8 * most <= same <= most, (same, most))
    pointer(page, rows, out, check)
    keyboard(page, rows, out, check)
    filters(page, rows, out, check)
    before = page.locator(".item").count()
    for _ in range(60):
        page.mouse.wheel(0, 4000)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_timeout(300)
    found = page.inner_text("#rows")
    check("the end of the list is reached", f"texts {len(rows) - 1:,} and {len(rows):,}" in found, before)
    page.screenshot(path=out / "6_end.png")
    check("no image was made of a text", page.locator("img, iframe, object").count() == 0, "")


def pointer(page: Any, rows: list[TokenRow], out: Path, check: Check) -> None:
    """Exact numbers under the pointer, in the color of their sign; the other color by a click."""
    page.hover("#t0-9")
    panel = page.inner_text("#panel")
    value = rows[0].values["credit"][9]
    assert value is not None
    wanted = f"{abs(value):.4g}".rstrip("0")
    check("the panel holds the exact number", wanted in panel, (wanted, panel[:200]))
    check("… and the likeliest tokens of both", "log π_ref" in panel and "▸" in panel, panel[-300:])
    color = page.evaluate("getComputedStyle(document.getElementById('t0-9')).backgroundColor")
    check("the color has the sign", ("0, 114, 178" if value > 0 else "213, 94, 0") in color, color)
    page.screenshot(path=out / "2_hover.png")
    page.click("label[for=name4]")
    check("the switch changes the color", "over the whole vocabulary" in page.inner_text("#caption"), "")
    color = page.evaluate("getComputedStyle(document.getElementById('t0-9')).backgroundColor")
    check("KL is blue alone", "0, 114, 178" in color, color)
    page.click("label[for=name0]")
    page.mouse.move(5, 5)


def keyboard(page: Any, rows: list[TokenRow], out: Path, check: Check) -> None:
    """Every function without a pointer."""
    press = page.keyboard.press
    current = lambda: page.evaluate("document.querySelector('.t.current')?.id")
    press("g")
    check("g is the first text", current() == "t0-0", current())
    press("ArrowRight")
    press("ArrowRight")
    check("arrows go along the text", current() == "t0-2", current())
    check("… and are spoken", "token 3 of" in page.inner_text("#live"), page.inner_text("#live"))
    check("the place is ringed", page.evaluate("getComputedStyle(document.querySelector('.t.current')).outlineStyle")
          == "solid", "")  # fmt: skip
    press("j")
    check("j is the text after", current() == "t1-2", current())
    press("o")
    check("o is the token opposite", str(current()).startswith("t0-"), current())
    press("e")
    r, t = map(int, str(current())[1:].split("-"))
    wrong = rows[r].wrong
    check("e finds a wrong token", wrong is not None and wrong[t] != "", current())
    press("c")
    check("c changes the color", page.is_checked("#name1"), "")
    press("1")
    press("a")
    check("a ends the alignment", page.locator(".aligned").count() == 0, "")
    page.screenshot(path=out / "3_plain.png")
    press("a")
    check("… and brings it back", page.locator(".aligned").count() > 0, "")
    press("?")
    check("? shows the keys", page.evaluate("document.getElementById('help').open"), "")
    page.screenshot(path=out / "4_keys.png")
    press("Escape")
    press("G")
    check("G is the last text", current() == f"t{len(rows) - 1}-0", current())
    check("… and it is in view", page.locator(".t.current").bounding_box()["y"] > 0, "")
    press("g")
    press("/")
    check("/ is the search", page.evaluate("document.activeElement.id") == "text", "")
    reached = set()
    for _ in range(14):
        press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    wanted = {"side", "wrong", "against", "range", "least", "most", "sort", "direction", "list", "panel"}
    check("Tab reaches every control", wanted <= reached, wanted - reached)


def filters(page: Any, rows: list[TokenRow], out: Path, check: Check) -> None:
    """Counts against counts made here."""
    whole = [sum(value or 0.0 for value in row.values["credit"]) for row in rows]
    against = sum(2 for i in range(0, len(rows), 2) if whole[i] < whole[i + 1])
    shown = lambda: int(page.inner_text("#count").split(" of ")[0].replace(",", ""))
    page.check("#against")
    check("margin < 0 counts right", shown() == against, (shown(), against))
    page.uncheck("#against")
    page.select_option("#sort", "margin")
    least = min(range(0, len(rows), 2), key=lambda i: whole[i] - whole[i + 1])
    check("the smallest margin is first", page.locator(f"#t{least}-0").count() == 1, least)
    page.click("#direction")
    most = max(range(0, len(rows), 2), key=lambda i: whole[i] - whole[i + 1])
    check("… and the largest after a click", page.locator(f"#t{most}-0").count() == 1, most)
    page.select_option("#sort", "order")
    page.click("#direction")
    page.fill("#text", "汉字")
    found = sum(2 for i in range(0, len(rows), 2) if any("汉字" in "".join(r.tokens) for r in rows[i : i + 2]))
    check("search counts right", shown() == found, (shown(), found))
    page.screenshot(path=out / "5_search.png")
    page.fill("#text", "no such text anywhere")
    check("nothing found is said", "No text is left" in page.inner_text("#message"), "")
    page.fill("#text", "")
    page.select_option("#side", "rejected")
    check("one side is half", shown() == len(rows) // 2, shown())
    page.check("#against")
    check("… and margin < 0 is still that of the pair", shown() == against // 2, (shown(), against))
    page.uncheck("#against")
    page.select_option("#sort", "margin")
    check("… as is the order", page.locator(f"#t{least + 1}-0").count() == 1, least)
    page.select_option("#sort", "order")
    page.select_option("#side", "any")
    page.select_option("#range", label="true reward")
    page.fill("#least", "2")
    over = sum(2 for i in range(0, len(rows), 2) if any(r.totals["true reward"] >= 2 for r in rows[i : i + 2]))
    check("a range counts right", shown() == over, (shown(), over))
    page.fill("#least", "")


def narrow(page: Any, out: Path, check: Check) -> None:
    """A small window: texts below each other, nothing cut off."""
    page.set_viewport_size({"width": 620, "height": 900})
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.wait_for_timeout(200)
    wide = page.evaluate("document.documentElement.scrollWidth")
    check("a narrow window needs no sideways scrolling", wide <= 620, wide)
    page.screenshot(path=out / "7_narrow.png")
    page.set_viewport_size({"width": 1440, "height": 900})


def small(page: Any, out: Path, check: Check) -> None:
    """Pages with little or much in them."""
    for name, rows in corners(random.Random(1)).items():
        path = write_lens(rows, out / f"corner_{name}.html", title=name)
        began = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector(".item, #message:not([hidden])")
        page.keyboard.press("j")
        for key in ("ArrowRight", "c", "End", "o", "k"):
            page.keyboard.press(key)
        spent = time.perf_counter() - began
        drawn = page.locator(".item").count()
        check(f"{name}: its texts are drawn in {spent:.1f} s", bool(drawn) == bool(rows) and spent < 6, (drawn, spent))
        page.screenshot(path=out / f"8_{name}.png")
        if name == "steps":
            steps(page, check)


def steps(page: Any, check: Check) -> None:
    """A pair whose sides are runs of two models: margins, ranges and order are of whole sides, not of single steps."""
    heads = page.locator(".head").all_inner_texts()
    check("a margin is over all steps", "+2.75" in heads[0] and "texts 1–2 and 3–4" in heads[0], heads)
    shown = page.locator(".side-head").all_inner_texts()[:4]
    wanted = [f"{side}\nstep {k} of 2" for k in (1, 2) for side in ("chosen", "rejected")]
    check("step stands beside step", all(map(str.startswith, shown, wanted)), shown)
    page.hover("#t1-0")
    check("… and opposite it", "␣r1" in page.inner_text("#panel .opposite"), page.inner_text("#panel"))
    page.check("#against")
    check("its margin is above 0", page.locator(".item").count() == 1, page.locator(".head").all_inner_texts())
    page.uncheck("#against")
    page.select_option("#range", "sum:0")
    page.fill("#least", "6.5")
    page.fill("#most", "7.5")
    check("a range is of whole sides", page.locator(".item").count() == 1, page.locator(".head").all_inner_texts())
    page.fill("#least", "")
    page.fill("#most", "")
    check("only a model's tokens are counted", "2 tokens, 1 of others" in page.inner_text("#rows"), "")


def browser_path() -> str:
    """The browser to drive, or a line that says what to set."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit("browser: no Chromium on the PATH: install one, or set CHROMIUM to its program")
    return found


def main() -> int:
    """Write the page, visit it; 1 on any miss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "browser")
    args = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit("browser: the package playwright is missing: pip install 'tokenward[browser]'") from None
    args.out.mkdir(parents=True, exist_ok=True)
    rows = list(pairs(args.rows, random.Random(0)))
    misses: list[str] = []

    def check(what: str, holds: bool, found: object) -> None:
        print(("ok    " if holds else "MISS  ") + what + ("" if holds else f": {found}"))
        if not holds:
            misses.append(what)

    began = time.perf_counter()
    file = args.out / f"credit {NASTY.replace('/', '')}.jsonl"
    write_rows(file, rows)
    path = write_lens(file, args.out / "lens.html", title=f"Credit of {file.stem}", notes=[f"policy {NASTY}"])
    size = path.stat().st_size
    print(f"page of {len(rows):,} texts: {size / 1e6:.1f} MB, written in {time.perf_counter() - began:.1f} s")
    check("the page is small enough", size <= MOST_BYTES, size)
    visit(sync_playwright, path, rows, args.out, check)
    print(f"browser: {len(misses)} misses" if misses else "browser: every check holds")
    return 1 if misses else 0


def visit(playwright: Any, path: Path, rows: list[TokenRow], out: Path, check: Check) -> None:
    """Open the page and drive it; errors and dialogs count."""
    noise: list[str] = []
    with playwright() as p:
        browser = p.chromium.launch(
            executable_path=browser_path(), args=["--no-sandbox", "--enable-precise-memory-info"]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: noise.append(request.url) if not request.url.startswith("file:") else None)
        page.on("dialog", lambda dialog: (noise.append(f"dialog {dialog.message}"), dialog.dismiss()))
        began = time.perf_counter()
        page.goto(path.resolve().as_uri(), wait_until="commit")
        page.wait_for_selector(".item .t")
        texts = time.perf_counter() - began
        painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        print(f"first paint after {painted:.2f} s, first texts after {texts:.2f} s")
        check("first paint is soon enough", painted < PAINT_S, painted)
        check("first texts are soon enough", texts < PAINT_S, texts)
        drive(page, rows, out, check)
        narrow(page, out, check)
        heap = page.evaluate("performance.memory.usedJSHeapSize")
        print(f"heap {heap / 1e6:.0f} MB")
        check("memory is bounded", heap < HEAP_BYTES, heap)
        small(page, out, check)
        check("no error, no dialog, nothing from outside", not noise, noise[:5])
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
