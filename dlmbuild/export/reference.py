"""What the trained model itself says, token by token: the yardstick that exports are held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlmbuild.data.control import Piece
from dlmbuild.data.rows import conversation
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

_ANSWER_TOKENS = 16
_QUESTIONS = 10


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
) -> dict[str, Any]:
    """Write reference.json: each probe text and its ids, and the trained model's choice at each compared position.

    At every position of the fixed texts, and along the first tokens of its own answers to (at most ten of) the
    document's questions, the two likeliest next tokens and the natural logs of their probabilities. Computed in fp32.
    Raises SmokeError where they are no numbers.
    """
    import torch

    from dlmbuild.inference.generate import load_model

    progress("loading torch, the base and the adapter")
    model = load_model(base, adapter)
    tokenizer = Tokenizer.from_base(base)
    texts = probe_texts(questions, system_prompt, tokenizer)
    compared = texts[: len(FIXED_TEXTS) + _QUESTIONS]
    probes: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        progress("asking the trained model", number, len(texts))
        ids = tokenizer.encode_pieces(text)
        probe: dict[str, Any] = {"pieces": text, "ids": ids}
        if number < len(compared):
            start = 1
            with torch.no_grad():
                if number >= len(FIXED_TEXTS):
                    start = len(ids)
                    given = torch.tensor([ids])
                    ids = model.generate(
                        input_ids=given,
                        attention_mask=torch.ones_like(given),
                        max_new_tokens=_ANSWER_TOKENS,
                        do_sample=False,
                        pad_token_id=tokenizer.pad_id,
                        eos_token_id=tokenizer.stop_ids,
                    )[0].tolist()
                best = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1).topk(2, dim=-1)
            if not torch.isfinite(best.values).all():
                raise no_numbers("the trained model")
            stop = len(ids) if number < len(FIXED_TEXTS) else len(ids) - 1
            probe["compared"] = {
                "ids": ids,
                "first": start,
                "best": best.indices[start - 1 : stop].tolist(),
                "logprob": [[round(value, 5) for value in pair] for pair in best.values[start - 1 : stop].tolist()],
            }
        probes.append(probe)
    (out / "reference.json").write_bytes(canonical_json({"probes": probes}))
    return {"texts": len(texts), "positions": sum(len(p["compared"]["best"]) for p in probes if "compared" in p)}
