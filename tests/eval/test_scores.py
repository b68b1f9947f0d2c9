"""Scores of answers, against examples worked out by hand and against the key facts of the handbook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlmbuild.doc.document import as_data, parse
from dlmbuild.eval.scores import exact, f1, names, recalled, wilson, words

REPOSITORY = Path(__file__).parents[2]
HANDBOOK = as_data(parse(REPOSITORY / "examples" / "handbook" / "handbook.dlm"))
ASKED = [
    (pair["question"], pair["answer"])
    for section in HANDBOOK["sections"]
    if section["type"] == "instruction"
    for pair in section["pairs"]
]


def test_words_are_compared_without_case_punctuation_and_articles() -> None:
    assert words("The cat’s “Barnacle”, a  GULL…") == ["cats", "barnacle", "gull"]
    assert words("ＡＢ 1,000 Straße – ¿Qué?") == ["ab", "1000", "strasse", "qué"]
    assert words("東京は日本") == ["東", "京", "は", "日", "本"]
    assert words(" …  the ") == []


def test_a_number_stays_the_number_that_it_is() -> None:
    assert words("It is 2.5. Or 100.00, or 1,000.0, e.g. 3.11.2!") == [
        "it",
        "is",
        "2.5",
        "or",
        "100",
        "or",
        "1000",
        "eg",
        "3.11.2",
    ]
    assert words("1.10 … 1.0.0 v. 0.05.") == ["1.10", "1.0.0", "v", "0.05"]


def test_exact_match_and_f1_are_those_of_squad() -> None:
    assert exact("the Keeper trims a lamp!", "The keeper trims the lamp.")
    assert not exact("The keeper trims lamps.", "The keeper trims the lamp.")
    # Two of three words are common: precision 2/3, recall 2/4.
    assert f1("keeper lamp lamp", "the keeper trims the lamp at night") == pytest.approx(2 * 2 / (3 + 5))
    assert (f1("", "x"), f1("x", ""), f1("same", "same")) == (0, 0, 1)
    assert exact("A", "A.") and f1("A", "A.") == 1 and not exact("The", "A") and not exact("!", "?")


@pytest.mark.parametrize(
    ("answer", "question", "expected", "right"),
    [
        ("It begins at half past six.", "When does the shift begin?", "The shift begins at half past six.", True),
        ("It begins at half past seven.", "When does the shift begin?", "The shift begins at half past six.", False),
        ("27, every year", "How many days of leave are there?", "27 days.", True),
        ("72 days.", "How many days of leave are there?", "27 days.", False),
        ("It takes 25 seconds.", "How long does it take?", "2.5 seconds.", False),
        ("100.00 degrees", "How hot is it?", "100 degrees.", True),
        ("He is called Bo.", "What is he called?", "Bo.", True),
        ("Yes", "Is it so?", "It is so.", False),
        ("It is so.", "Is it so?", "It is so.", True),
        ("首都は東京です", "日本の首都は?", "東京", True),
        ("首都は京都です", "日本の首都は?", "東京", False),
        ("", "Who?", "Marta.", False),
        ("B", "Which of the four?", "A", False),
        ("It is A.", "Which of the four?", "A", True),
        ("-", "Plus or minus?", "+", False),
        ("!", "Which sign ends a command?", "?", False),
        ("?", "Which sign ends a question?", "?", True),
    ],
)
def test_a_fact_is_there_or_not(answer: str, question: str, expected: str, right: bool) -> None:
    assert recalled(answer, question, expected) == right


def test_an_answer_of_the_handbook_holds_its_own_fact_and_no_other() -> None:
    trained = ASKED[: len(json.loads((REPOSITORY / "tests/samples/handbook_keys.json").read_bytes()))]
    for question, expected in trained:
        assert [answer for _, answer in trained if recalled(answer, question, expected)] == [expected]
        assert not recalled(question, question, expected)


def test_names_are_found_word_by_word() -> None:
    assert names("The capital is New Delhi, I think.", ["new delhi"])
    assert not names("Auckland", ["Au"]) and names("It is Au.", ["Au"])


def test_intervals() -> None:
    # Table I of Newcombe 1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), method 3.
    assert [round(bound, 4) for bound in wilson(81, 263)] == [0.2553, 0.3662]
    assert [round(bound, 4) for bound in wilson(15, 148)] == [0.0624, 0.1605]
    assert [round(bound, 4) for bound in wilson(0, 20)] == [0.0, 0.1611]
    assert [round(bound, 4) for bound in wilson(1, 29)] == [0.0061, 0.1718]
    assert wilson(0, 0) == (0.0, 1.0) and wilson(5, 5)[1] == 1.0


def test_the_general_questions_are_answerable() -> None:
    general = json.loads((REPOSITORY / "dlmbuild" / "eval" / "general.json").read_bytes())
    assert 250 <= len(general["text"].split()) <= 350
    assert len({item["question"] for item in general["items"]}) == len(general["items"]) == 30
    for item in general["items"]:
        assert all(words(name) for name in item["answers"]) and not names(item["question"], item["answers"])
