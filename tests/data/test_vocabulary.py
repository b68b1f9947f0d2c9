from __future__ import annotations

from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.data.vocabulary import Vocabulary, is_gap, told, vocabulary_of, words_of


def report_on(text: str, tokenizer: Tokenizer) -> dict[str, object]:
    return vocabulary_of(words_of([{"type": "prose", "text": text}]), tokenizer).report()


def test_words_are_runs_of_letters_and_characters_of_scripts_without_spaces() -> None:
    sections = [
        {"type": "prose", "text": "Größe, 42 “lamps” (don't!) 北京 →ok"},
        {"type": "instruction", "pairs": [{"question": "Who?", "answer": "I"}]},
        {"type": "instruction", "pairs": [{"question": "probe", "answer": "no", "probe": True}]},
        {"type": "preference", "triples": []},
    ]
    assert sorted(words_of(sections)) == sorted(["Größe", "lamps", "don", "t", "北", "京", "→", "ok", "Who", "I"])


def test_what_the_tokenizer_knows_and_what_it_takes_apart(tokenizer: Tokenizer) -> None:
    known = report_on("The keeper winds the clockwork. The keeper trims the lamp.", tokenizer)
    assert (known["words"], known["split"], known["worst"], is_gap(known)) == (10, 0, [], False)
    assert told(known).endswith("0.0% of words split badly")
    gap = report_on("The keeper says 灯 and 灯, twice.", tokenizer)
    assert gap["worst"][0] == {"word": "灯", "times": 2, "tokens": 3}  # type: ignore[index]
    assert gap["pieces"] == 6 and gap["unknown"] == 0 and is_gap(gap)
    assert "tokens are parts of characters; into most tokens: 灯 (3)" in told(gap)


def test_shards_add_up(tokenizer: Tokenizer) -> None:
    texts = ["The keeper says 灯.", "灯 and ἄνεμος."]
    whole = report_on(" ".join(texts), tokenizer)
    added = Vocabulary()
    for text in texts:
        part = vocabulary_of(words_of([{"type": "prose", "text": text}]), tokenizer)
        added.add(Vocabulary(**part.as_data()))  # as it is remembered
    assert added.report() == whole
