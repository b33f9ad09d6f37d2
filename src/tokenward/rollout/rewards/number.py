"""Numbers in texts, read exactly.

Read: digits, with commas between groups of three or with none, and then a decimal part, an exponent of one to three
digits, or (whole digits only) a denominator: `1,234.50`, `.5`, `2e-3`, `3/4`. A sign counts where it touches the number
or its currency sign and stands neither after a word nor after `)`, `]` or `%`: `-5`, `−$5`, `$-5`; but `9-5` ends in 5.
What follows is a unit and is not read: `5%`, `5kg`, `$5` and `5.` are 5.

Not read: digits within a word (`B12`), spaces or points between thousands, decimal commas, mixed numbers (`1 1/2` ends
in 1/2), number words, and more than 300 characters.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

MARK = "####"
MOST = 300
_NUMBER = re.compile(
    r"""(?<!\w)(?<![0-9]\.)                               # neither within a word nor after a decimal point
    (?: (?P<ratio>(?<!/)[0-9]+/0*[1-9][0-9]*(?![0-9/]|\.[0-9]))
      | (?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?!\w))?
      | (?<!\.)\.[0-9]+(?:[eE][-+]?[0-9]{1,3}(?!\w))? )""",
    re.VERBOSE,
)
_SIGN = re.compile(r"(?<![\w)\]%])(?P<sign>[-+\u2212])[$€£]?\Z")


def numbers(text: str) -> Iterator[Fraction]:
    """The numbers of a text, in order.

    >>> [str(x) for x in numbers("9-5 is -$1,200.50, or 3/4 of 12kg (B12)")]
    ['9', '5', '-2401/2', '3/4', '12']
    """
    for found in _NUMBER.finditer(text):
        if len(found[0]) <= MOST:
            sign = _SIGN.search(text[max(0, found.start() - 3) : found.start()])
            value = Fraction(found[0].replace(",", ""))
            yield -value if sign is not None and sign["sign"] in "-\u2212" else value


def answer(text: str) -> Fraction | None:
    r"""The first number of the line after the last `####`; without one, the last number of the text; None: no number.

    >>> answer("She has 3 + 4 = 7.\n#### 7 apples"), answer("so 1,000 of 2"), answer("none ####")
    (Fraction(7, 1), Fraction(2, 1), None)
    """
    _, mark, rest = text.rpartition(MARK)
    if mark:
        return next(numbers(rest.partition("\n")[0]), None)
    return next(iter(deque(numbers(text), maxlen=1)), None)
