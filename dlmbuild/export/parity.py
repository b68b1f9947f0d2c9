"""Whether a GGUF is the model that was trained: the same tokens for the same text, the same choice at each position."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlmbuild.data.control import Piece
from dlmbuild.errors import SmokeError, Where
from dlmbuild.export.tensor_types import fallbacks
from dlmbuild.inference.llama_cpp import LlamaCpp
from dlmbuild.io.digest import readable_json
from dlmbuild.io.gguf_file import read_header
from dlmbuild.io.progress import Progress

_CANDIDATES = 20
"""How many of the likeliest tokens are asked for at each position."""


_TIE = 0.01
"""Two log-probabilities that are closer are a tie: half-precision weights and activations cannot tell them apart."""


def compare(
    *,
    gguf: Path,
    reference: Path,
    report: str,
    least_agreement: float,
    out: Path,
    progress: Progress,
    lora: Path | None = None,
    quant: str = "",
) -> dict[str, Any]:
    """Hold `gguf` (with `lora`) to reference.json, write the numbers to `out`/`report` and return them.

    Raises SmokeError where a text becomes other tokens, where the model says nothing, or where fewer than
    `least_agreement` (0…1) of the positions choose the same token as the trained model: with the place. Where the
    trained model's two best are a tie, either counts as its choice, and `ties` says how often the second was taken.
    With the file's `quant`, `tensors` says how many there are of each type, and how many took another than meant.
    """
    progress("loading the model into llama.cpp")
    probes = json.loads(reference.read_bytes())["probes"]
    runtime = LlamaCpp(gguf, lora=lora)
    for probe in probes:
        _same_tokens(runtime.tokenize(Piece(*piece) for piece in probe["pieces"]), probe, gguf.name)
    agreed, ties, first_difference = 0, 0, ""
    gaps: list[float] = []
    positions = list(_positions(probes))
    for done, (text, ids, best, logprobs) in enumerate(positions):
        progress("comparing with the trained model", done, len(positions))
        chosen, candidates = runtime.next_token(ids, candidates=_CANDIDATES)
        tied = chosen == best[1] and logprobs[0] - logprobs[1] < _TIE
        ties += tied
        if chosen == best[0] or tied:
            agreed += 1
        elif not first_difference:
            first_difference = f"token {len(ids)} of {text!r}"
        if candidates:
            # Outside the candidates the probability is at most that of the last one.
            gaps.append(abs(candidates.get(best[0], min(candidates.values())) - logprobs[0]))
    total = len(positions)
    agreement = agreed / total
    numbers: dict[str, Any] = {
        "texts_tokenized_alike": len(probes),
        "positions": total,
        "agreeing": agreed,
        "ties": ties,
        "agreement": round(agreement, 4),
        "mean_logprob_gap": round(sum(gaps) / max(1, len(gaps)), 4),
        "first_difference": first_difference,
    }
    if agreement < least_agreement:
        raise SmokeError(
            f"{gguf.name} chooses the trained model's token at {agreed} of {total} positions "
            f"({agreement:.1%}, at least {least_agreement:.0%} are asked)",
            why=f"they part first at {first_difference}",
            do="this is not the model that was trained, so it was not exported; please report it with your document",
        )
    if quant:
        header = read_header(gguf)
        types = Counter(info.type for info in header.tensors.values())
        numbers["tensors"] = {"types": dict(types), "fallbacks": len(fallbacks(header, quant, Where(str(gguf))))}
    (out / report).write_bytes(readable_json(numbers))
    return numbers


def _positions(probes: list[dict[str, Any]]) -> Iterator[tuple[str, list[int], list[int], list[float]]]:
    """For each compared position: its text, the ids before it, and the trained model's two best with their logs."""
    for probe in probes:
        if "compared" in probe:
            compared = probe["compared"]
            for offset, (best, logprobs) in enumerate(zip(compared["best"], compared["logprob"], strict=True)):
                yield _text(probe), compared["ids"][: compared["first"] + offset], best, logprobs


def _same_tokens(found: list[int], probe: dict[str, Any], name: str) -> None:
    expected = probe["ids"]
    if found == expected:
        return
    at = next(
        (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    raise SmokeError(
        f"llama.cpp reads {_text(probe)!r} as other tokens than the model was trained on",
        why=f"from token {at + 1} on {name} gives {found[at : at + 3]}, the base's tokenizer {expected[at : at + 3]}",
        do="this base's tokenizer is not carried over faithfully, so nothing was exported; take another base",
    )


def _text(probe: dict[str, Any]) -> str:
    return "".join(text for text, _ in probe["pieces"])
