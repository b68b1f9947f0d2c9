"""Characters that are taken for others: those that look like a colon or a letter, and those that show nothing.

After Unicode's confusables (https://www.unicode.org/reports/tr39/#Confusable_Detection), and beside them what is named
for a colon, the visargas of the scripts of India, and digits and signs that are written for letters.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

INVISIBLE = (
    "\x01-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
"""Characters that show nothing, as the inside of a regular expression's class."""
COLONS = (
    ":\u02d0\u02d1\u02f8\u0589\u05c3\u0703-\u0709\u0903\u0983\u0a03\u0a83\u0b03\u0c03\u0c83\u0d03\u0d83\u0f14\u1038\u1361"
    "\u1365\u1366\u16ec\u17c8\u1803\u1804\u1809\u205a\u2236\u2237\u2360\u2982\u2e2c\ua4fd\ua6f4\ua789\ua881\uaaf5\ufe13"
    "\ufe30\ufe55\uff1a\U00010781\U00010782\U00011002\U00011082\U00011182\U00011303\U00011445\U000114c1\U000115be"
    "\U0001163e\U000116ac\U00011838\U000119df\U00011a39\U00011a97\U00011c3e\U00011d96\U00012471\U00012472\U0001d108"
    "\U0001da8a"
)
"""Characters that look like a colon, or like two, as the inside of a class."""
NUMBER_SIGNS = "#\ufe5f\uff03"
"""Those that look like one that begins a heading."""
TWO_COLONS = "\u2237\u2e2c"
"""Those of them that look like two."""

_LETTERS = {
    "a": "4@\u0251\u03b1\u0430\u13aa\u15c5\ua4ee",
    "c": "\u0441\u13df\u1d04\u2ca5\ua4da",
    "d": "\u0501\u13a0\u13e7\u146f\u15de\u15ea\ua4d2\ua4d3",
    "e": "3\u03b5\u0435\u04bd\u13ac\u2d39\ua4f0\uab32",
    "f": "\u03dd\u0584\u15b4\u1e9d\ua4dd\ua799\uab35",
    "g": "69\u018d\u0261\u050d\u0581\u13c0\u13f3\u1d83\ua4d6",
    "h": "\u03b7\u043d\u04bb\u0570\u13bb\u13c2\u157c\u2c8f\ua4e7",
    "i": "1|!\u0131\u0269\u026a\u03b9\u0456\u04cf\u13a5\ua647",
    "j": "\u029d\u03f3\u0458\u13ab\u148d\ua4d9",
    "m": "\u03bc\u03fb\u043c\u13b7\u15f0\u16d6\u2c99\ua4df",
    "n": "\u03bd\u0578\u057c\u2c9b\ua4e0",
    "o": "0\u03bf\u03c3\u043e\u0585\u05e1\u0647\u0665\u06be\u06c1\u06d5\u0966\u0b20\u0d20\u101d\u10ff\u12d0\u1d0f\u1d11"
    "\u2c9f\u2d54\ua4f3\uab3d",
    "p": "\u03c1\u0440\u13e2\u146d\u2ca3\ua4d1",
    "q": "\u051b\u0563\u0566\u2d55",
    "r": "\u0280\u0433\u13a1\u13b1\u13d2\u1587\u1d26\u2c85\ua4e3\uab47\uab48",
    "s": "5$\u01bd\u0455\u057f\u13d5\u13da\ua4e2\ua731",
    "t": "7\u03c4\u0442\u13a2\u2ca7\ua4d4",
    "u": "\u028b\u03c5\u057d\u1200\u144c\u1d1c\ua4f4\ua79f\uab4e\uab52",
    "w": "\u026f\u0461\u051d\u0561\u13b3\u13d4\u1d21\ua4ea",
}
"""The letters of the words of the format → what looks like one, after compatibility characters and marks are gone."""
_AS_LETTERS = {ord(other): letter for letter, others in _LETTERS.items() for other in others}


@cache
def pattern(text: str) -> re.Pattern[str]:
    """A pattern with sets of rare characters, which takes milliseconds to compile and is not always needed."""
    return re.compile(text)


def seen_as(word: str) -> str:
    """The word of small ASCII letters that a reader may take this one for."""
    if word.isalpha() and word.isascii():
        return word.lower()
    bare = "".join(char for char in unicodedata.normalize("NFKD", word) if unicodedata.category(char) != "Mn")
    return bare.casefold().translate(_AS_LETTERS)
