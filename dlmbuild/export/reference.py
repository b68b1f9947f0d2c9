"""What the trained model itself says, token by token: the yardstick that exports are held to."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dlmbuild.data.control import Piece
from dlmbuild.data.rows import conversation
from dlmbuild.data.shards import distinct_rows
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.inference.numbers import no_numbers
from dlmbuild.io.digest import canonical_json
from dlmbuild.io.progress import Progress

FIXED_TEXTS = (
    "The capital of France is Paris, and the river that runs through it is called the Seine.",
    "def add(a, b):\n    # two  spaces,\ttabs and numbers: 3.14, 1024, 0xff\n    return a + b\n",
    "Water boils at 100 °C at sea level; at 3,000 m it boils near 90 °C — that's why pasta takes longer.",
    "Es war einmal ein König. ¿Qué tal? Ça va bien, merci… naïve café, 東京, Привет, 🚲🙂",
    "  leading spaces, trailing spaces  \n\n\nthree newlines, (brackets) [and] {more}; \"quotes\" 'too'!",
    "I'll, you'd, they're; 1st, 2nd, 12345678 and 1/2 ½ ² — don't split what others don't.",
)
"""Texts that tell tokenizers apart, and on which next tokens are not all obvious."""

BEST = 20
"""Likeliest next tokens that are kept of each position."""

_ROW_POSITIONS = 192
"""Learned tokens of the document's own rows that are compared, about."""
_OF_A_ROW = 24
_LONGEST = 2048
"""A row whose learned tokens begin later is left out: what comes before them is read anew for each."""


def probe_texts(questions: Sequence[str], system_prompt: str | None, tokenizer: Tokenizer) -> list[list[Piece]]:
    """The texts that both sides tokenise: the fixed ones, and the document's questions as they are asked."""
    asked = [tokenizer.question(conversation(question, None, system_prompt)) for question in questions]
    return [*([Piece(text, False)] for text in FIXED_TEXTS), *asked]


def reference_predictions(
    *,
    base: Path,
    adapter: Path,
    questions: Sequence[str],
    system_prompt: str | None,
    out: Path,
    progress: Progress,
    **datasets: Path,
) -> dict[str, Any]:
    """Write reference.json: each probe text and its ids, and the trained model's choices at each compared position.

    Compared are every position of the fixed texts, and the first learned tokens of rows of `datasets` (paths of
    dataset.json files): which rows is decided by their digests. Of each position there are the BEST likeliest next
    tokens and the natural logs of their probabilities, of a row's also the log of its own next token's. Computed in
    fp32. Raises SmokeError where they are no numbers.
    """
    import torch

    from dlmbuild.inference.generate import load_model

    progress("loading torch, the base and the adapter")
    model = load_model(base, adapter)
    tokenizer = Tokenizer.from_base(base)
    probes = [
        {"pieces": text, "ids": tokenizer.encode_pieces(text)}
        for text in probe_texts(questions, system_prompt, tokenizer)
    ]
    texts = [(text, tokenizer.encode(text), 1) for text in FIXED_TEXTS]
    rows = [(tokenizer.decode(list(ids)), list(ids), first) for ids, first in _own_rows(datasets.values())]
    compared: list[dict[str, Any]] = []
    for number, (text, ids, first) in enumerate([*texts, *rows]):
        progress("asking the trained model", number, len(texts) + len(rows))
        own = number >= len(texts)  # the token after the last one is of interest in a text, and not in a row
        with torch.no_grad():
            logits = model(torch.tensor([ids]), logits_to_keep=len(ids) - first + 1).logits[0].float()
            logs = torch.log_softmax(logits[: len(ids) - first] if own else logits, dim=-1)
            best = logs.topk(min(BEST, logs.shape[-1]), dim=-1)
        if not torch.isfinite(best.values).all():
            raise no_numbers("the trained model")
        entry = {"text": text, "ids": ids, "first": first, "best": best.indices.tolist()}
        entry["logprob"] = [[round(value, 5) for value in values] for values in best.values.tolist()]
        if own:
            entry["own"] = [round(log[token].item(), 5) for log, token in zip(logs, ids[first:], strict=True)]
        compared.append(entry)
    (out / "reference.json").write_bytes(canonical_json({"probes": probes, "compared": compared}))
    return {"texts": len(probes), "rows": len(rows), "positions": sum(len(entry["best"]) for entry in compared)}


def _own_rows(datasets: Iterable[Path]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Beginnings of rows, each with the place of its first learned token; an edited row leaves the others alone."""
    rows = ((name, row) for name, row in distinct_rows(datasets) if row.given + _OF_A_ROW <= _LONGEST)
    left = _ROW_POSITIONS
    for _, row in heapq.nsmallest(_ROW_POSITIONS, rows):
        stop = min(row.first + min(_OF_A_ROW, left), len(row.ids))
        if row.first < stop:
            yield row.ids[:stop], row.first
            left -= stop - row.first
