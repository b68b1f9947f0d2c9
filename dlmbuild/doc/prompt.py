"""What a system prompt may hold: it is trained with, so every runtime that is told it must get all of it.

The narrowest way is a Modelfile for Ollama (https://github.com/ollama/ollama/blob/main/parser/parser.go). Between three
quotation marks it takes everything as it is, except that it drops what cannot be printed, and that a line which ends in
three quotation marks ends the text.
"""

from __future__ import annotations

import re
import unicodedata

_END_MARK = re.compile(r'"""[ \t\r\n]*[\r\n]')


def ends_a_block(text: str) -> bool:
    """Whether a Modelfile's reader would take a line within the text for its end."""
    return _END_MARK.search(text) is not None


def what_is_lost(text: str) -> str:
    """What a Modelfile cannot say of a text, in words; "" if it can say all of it."""
    if ends_a_block(text):
        return 'a line that ends in """'
    lost = next((char for char in text if not char.isprintable() and char not in "\n\r\t"), None)
    return f"the character U+{ord(lost):04X} {unicodedata.name(lost, '')}".strip() if lost else ""
