from __future__ import annotations

from dlmbuild.data.gate import texts_of


def pairs(*asked: str) -> list[dict[str, object]]:
    return [{"question": q.strip("!"), "answer": "A", **({"probe": True} if q.endswith("!") else {})} for q in asked]


def test_texts_are_those_that_train_one_adapter_alone() -> None:
    sections = [
        {"type": "prose", "text": "For all."},
        {"type": "prose", "text": "One.\n\nTwo.\n\nOne.", "adapter": "tone"},
        {"type": "instruction", "pairs": pairs("Who?", "When?", "Where!")},
        {"type": "instruction", "pairs": pairs("How?", "How!"), "adapter": "tone"},
        {"type": "preference", "triples": [{"prompt": "Which?", "chosen": "x", "rejected": "y"}]},
    ]
    texts, probes = texts_of(sections, ["facts", "tone"])
    of = {name: [text for adapter, text in texts if adapter == name] for name in ("facts", "tone")}
    assert of == {"facts": ["Who?", "When?", "Which?"], "tone": ["One.", "Two.", "How?"]}
    assert probes == [["facts", "Where"], ["tone", "How"]]


def test_nothing_of_a_long_paragraph_is_left_out() -> None:
    text = " ".join(f"word{number}" for number in range(2000)) + " " + "".join(map(str, range(1500)))
    texts, _ = texts_of([{"type": "prose", "text": text, "adapter": "tone"}], ["facts", "tone"])
    assert max(len(text) for _, text in texts) <= 2000
    assert "".join(text for _, text in texts).replace(" ", "") == text.replace(" ", "")
