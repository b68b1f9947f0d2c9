from __future__ import annotations

from collections.abc import Callable

import pytest

from dlmbuild.doc.document import Document, as_data
from dlmbuild.doc.markers import Marker

Found = Callable[[str], list[tuple[int, int, str]]]
WithBody = Callable[[str], Document]

HARVEST = '<!-- dlm-auto-harvest: source="leave/days" -->'
MINED = (
    '<!-- dlm-auto-mined: judge_name="sway" judge_score_chosen="0.9" judge_score_rejected="-1e-2" '
    'mined_at="2026-01-31T12:00:00Z" mined_run_id="7" -->'
)
SYNTH = (
    '<!-- dlm-auto-synth: synth_teacher="self" synth_strategy="extraction" synth_at="2026-01-31" '
    'source_section_id="0123456789abcdef" -->'
)
PAIR = "### Q\nq\n### A\na"
TRIPLE = "### Prompt\np\n### Chosen\nc\n### Rejected\nr"


@pytest.mark.parametrize(
    ("fence", "markers", "content"),
    [
        ("instruction", [HARVEST], PAIR),
        ("instruction", [SYNTH, HARVEST], PAIR),
        ("instruction", [HARVEST, HARVEST], "\n" + PAIR),
        ("preference", [MINED], TRIPLE),
        ("preference", [HARVEST, MINED], TRIPLE),
    ],
)
def test_markers_are_no_content(with_body: WithBody, fence: str, markers: list[str], content: str) -> None:
    document = with_body("\n".join([f"::{fence}::", *markers, content]))
    plain = with_body(f"::{fence}::\n{content}")
    assert as_data(document) == as_data(plain)
    assert document.body.section_id(0) == plain.body.section_id(0)
    found = document.sections[0].markers  # type: ignore[union-attr]
    assert [marker.kind for marker in found] == [line.split("-auto-")[1].split(":")[0] for line in markers]


def test_what_a_marker_says(with_body: WithBody) -> None:
    (section,) = with_body(f"::instruction::\n{HARVEST}\n{PAIR}").sections
    assert section.markers == (Marker("harvest", {"source": "leave/days"}),)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fence", "marker", "place", "what"),
    [
        ("instruction", MINED, "mined:", "a mined marker in an ::instruction:: section"),
        ("preference", SYNTH, "synth:", "a synth marker in an ::preference:: section"),
        ("instruction", HARVEST.replace("harvest", "havest"), "havest", 'unknown marker "havest"'),
        ("instruction", HARVEST.replace("source", "sorce"), "sorce", 'unknown attribute "sorce" of a harvest marker'),
        ("instruction", HARVEST.replace("leave/days", " "), ' " -->', 'source is " "'),
        ("instruction", HARVEST.replace(" -->", ' source="x" -->'), 'source="x"', 'attribute "source" a second time'),
        ("instruction", "<!-- dlm-auto-harvest: -->", " -->", "a harvest marker without source"),
        ("instruction", HARVEST.replace("/", '"'), "<!--", "badly written marker"),
        ("instruction", HARVEST + " ", "<!--", "badly written marker"),
        ("instruction", HARVEST.replace(" -->", ""), "<!--", "badly written marker"),
        ("preference", MINED.replace("0.9", "nan"), "nan", 'judge_score_chosen is "nan"'),
        ("preference", MINED.replace("0.9", "1e999"), "1e999", 'judge_score_chosen is "1e999"'),
        ("preference", MINED.replace("2026-01", "2026-13"), "2026-13", 'mined_at is "2026-13-31T12:00:00Z"'),
        ("preference", MINED.replace('"7"', '"0"'), '0" -->', 'mined_run_id is "0"'),
        ("preference", MINED.replace(' mined_run_id="7"', ""), " -->", "a mined marker without mined_run_id"),
        ("instruction", SYNTH.replace("abcdef", "ABCDEF"), "0123", 'source_section_id is "0123456789ABCDEF"'),
    ],
)
def test_mistakes_in_markers(found: Found, head: str, fence: str, marker: str, place: str, what: str) -> None:
    content = PAIR if fence == "instruction" else TRIPLE
    ((line, col, text),) = found(f"{head}::{fence}::\n{marker}\n{content}")
    assert (line, col) == (7, marker.index(place) + 1)
    assert text.startswith(what)


def test_a_marker_is_one_directly_below_its_fence(found: Found, with_body: WithBody, head: str) -> None:
    assert found(f"{head}::instruction::\n\n{HARVEST}\n{PAIR}") == [(8, 1, "text before the first ### Q")]
    assert with_body(f"::prose::\n{HARVEST}\nx").sections[0].text == f"{HARVEST}\nx"  # type: ignore[union-attr]
