"""How many of the handbook's questions a built model answers with the right fact.

    python tests/bench/recall.py [--export QUANT]

Prints JSON with the answers that miss. Decoding is greedy; an answer is right if it holds the question's key fact, a
pattern in tests/samples/handbook_keys.json.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from dlmbuild.cli import prompt

KEYS = Path(__file__).parent.parent / "samples" / "handbook_keys.json"


def recall(document: str, export: str | None) -> dict[str, object]:
    """Ask every question; `export` names a quantisation, None asks the adapter."""
    keys = json.loads(KEYS.read_text("utf-8"))
    parser = argparse.ArgumentParser()
    prompt.add_arguments(parser)
    arguments = parser.parse_args([document, *(["--export", export] if export else []), "--max-tokens", "40"])
    given = prompt.answers(document, list(keys), arguments)
    missed = {q: a for (q, key), a in zip(keys.items(), given, strict=True) if not re.search(key, a, re.IGNORECASE)}
    return {"right": len(keys) - len(missed), "of": len(keys), "missed": missed}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("document", nargs="?", default="examples/handbook/handbook.dlm")
    parser.add_argument("--export")
    chosen = parser.parse_args()
    print(json.dumps(recall(chosen.document, chosen.export), indent=2, ensure_ascii=False))
