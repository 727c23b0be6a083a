"""Text of one member of the region that people at another, or patients, read."""

import unicodedata

FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that Unicode calls letters, marks or symbols, and that show nothing."""

MOST_MARKS = 2
"""How many marks may stand on one letter: more would cover the lines above and below."""


def is_readable(text: str) -> bool:
    """Tell whether a text reads as it is written: nothing in it is unseen, turns the line around, or covers others.

    Source: Unicode, categories Cc, Cf, Zl, Zp, Co, Cn and Cs, which `str.isprintable` refuses; UTS #39 §5.4 for marks.
    """
    marks = 0
    for one in text:
        marks = marks + 1 if unicodedata.category(one).startswith("M") else 0
        if not one.isprintable() or one in FILLERS or marks > MOST_MARKS:
            return False
    return True
