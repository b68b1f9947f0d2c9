"""How fast documents are read: MB of text per CPU second, its growth with size, and what `dlm check` costs to start.

Run it alone with `python -m tests.bench.parse`; with a number, that many MB are the largest document (default 100).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from dlmbuild.doc.document import parse_bytes
from tests.bench.cost import SCRIPTS, cost

HEAD = b"---\ndlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 16\nbase_model: smollm2-135m\n---\n"
PAIR = (
    "### Q\nWhat is the capital of the country with the number {}?\n### A\nThe capital of that country is Nineveh.\n\n"
)
UNITS = {
    "prose": "The quick brown fox jumps over the lazy dog, again and again, until the line ends here.\n" * 8 + "\n",
    "twenty questions in a section": "::instruction::\n" + "".join(PAIR.format(number) for number in range(20)),
    "one question in a section": "::instruction::\n" + PAIR.format(7),
    "preferences": "::preference::\n"
    + "### Prompt\nWho?\n### Chosen\nThe keeper trims it.\n### Rejected\nI am a model.\n\n" * 5,
    "code": "```python\n" + "def f(x):\n    # a comment\n    return x + 1\n\n" * 6 + "```\n",
    "headings and blank lines": "## A heading\n\nA line below it.\n   \n### Another one\n\nAnd another line.\n\n",
    "non-ASCII": "Der Leuchtturm wärmt die Küste; 灯台は海を照らす。\n",
}

ROUNDS = 25
"""In which the two commands are started in turn; what is said is the median."""


def main(largest: int = 100) -> None:
    for kind, unit in UNITS.items():
        print(f"reading {kind}: {speed(unit, 4_000_000):.0f} MB per CPU second", flush=True)
    kind = "twenty questions in a section"
    sizes = [size for size in (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000) if size <= largest * 1_000_000]
    found = {size: speed(UNITS[kind], size) for size in sizes}
    print(f"growth ({kind}): " + ", ".join(f"{size / 1e6:g} MB at {mb:.0f} MB/s" for size, mb in found.items()))
    start_up()


def speed(unit: str, size: int) -> float:
    """MB per CPU second, the best of a few times."""
    encoded = unit.encode()
    data = HEAD + encoded * (size // len(encoded) + 1)
    best = float("inf")
    for _ in range(2 if size > 10_000_000 else 5):
        start = time.process_time()
        rounds = max(1, 500_000 // size)
        for _ in range(rounds):
            parse_bytes(data, "book.dlm")
        best = min(best, (time.process_time() - start) / rounds)
    return len(data) / 1e6 / best


def start_up() -> None:
    """`dlm check` of a small document against a plain doit that has nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "dodo.py").write_text("def task_x():\n    return {'actions': None, 'uptodate': [True]}\n")
        (here / "book.dlm").write_bytes(HEAD + b"text\n")
        environment = {**os.environ, "DLM_HOME": str(here / "home")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        commands = {"dlm check": [str(SCRIPTS / "dlm"), "check", "book.dlm"], "plain doit": [str(SCRIPTS / "doit")]}
        rounds = [[cost(words, here, environment).cpu for words in commands.values()] for _ in range(ROUNDS + 1)][1:]
        check, doit = (median(spent) for spent in zip(*rounds, strict=True))
        ratio = median(one / other for one, other in rounds)  # of each moment, so that what else runs counts for both
        print(f"dlm check of a small document: {check:.3f} CPU s, plain doit {doit:.3f}: ratio {ratio:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
