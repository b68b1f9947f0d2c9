"""What counts as edited, moved, split or deleted, and that the same version twice is one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dlmbuild.replay.delta import State, name_of, parts_of, said_by, taught

Section = dict[str, Any]


def prose(text: str) -> Section:
    return {"type": "prose", "text": text}


def asked(*pairs: tuple[str, str]) -> Section:
    return {"type": "instruction", "pairs": [{"question": q, "answer": a} for q, a in pairs]}


LAMP = prose("The keeper trims the lamp at dusk. The lamp burns whale oil.")
BELL = prose("The bell rings in fog.")
BOAT = asked(("Who rows the boat?", "Marta rows the boat."), ("When does it leave?", "At noon."))
CORRECTED = asked(("Who rows the boat?", "Ann."))
FERRY = prose("The ferry crosses twice a day.")


def after(*versions: list[Section]) -> State:
    """The state once these versions were trained one after the other."""
    state, parts = State(), {}
    for sections in versions:
        parts |= {name_of(section): parts_of(section) for section in sections}
        state = state.after([name_of(section) for section in sections], said_by(sections), parts)
    return state


def deleted(*versions: list[Section]) -> list[Section]:
    known = {name_of(section): section for version in versions for section in version}
    return [known[name] for name in after(*versions).ages]


@pytest.mark.parametrize(
    ("versions", "gone"),
    [
        ([[LAMP, BELL, BOAT], [LAMP, BOAT]], [BELL]),
        ([[LAMP, BELL, BOAT], [BOAT, LAMP, BELL]], []),  # moved
        ([[LAMP, BELL, BOAT], [LAMP, prose("The horn sounds in fog."), BOAT]], []),  # edited where it stands
        ([[LAMP, BELL, BOAT], [BELL, BOAT, prose("The keeper trims it. The lamp burns whale oil.")]], []),  # and moved
        ([[LAMP, BOAT], [prose("The keeper trims the lamp at dusk."), prose("The lamp burns whale oil."), BOAT]], []),
        ([[LAMP, BELL], [prose(f"{LAMP['text']}\n\n{BELL['text']}")]], []),  # joined
        ([[LAMP, BOAT, BELL], [LAMP, BELL, asked(("Who rows the  BOAT?", "Ann."))]], []),  # a question in another place
        ([[LAMP, BOAT, BELL], [LAMP, BELL, asked(("Whose is it?", "Marta rows the boat."))]], []),  # an answer
        ([[LAMP, BELL, BOAT], [prose("The lamp burns whale oil."), BOAT]], [BELL]),  # LAMP is edited
        ([[LAMP, BELL, BOAT], [FERRY, BOAT]], []),  # which of them FERRY was is not known
        ([[LAMP, BELL], [LAMP], [LAMP, BELL], [LAMP, BELL, BOAT]], []),  # it has come back
        ([[LAMP, BELL], [LAMP], [LAMP, BELL], [LAMP]], [BELL]),  # and gone again
        ([[LAMP, BELL, BOAT], [LAMP, FERRY, BOAT], [LAMP, BOAT]], [FERRY]),  # BELL was edited, its text stays away
        ([[LAMP, BOAT], [LAMP], [LAMP, CORRECTED], [LAMP]], [CORRECTED]),
        ([[LAMP, BELL], [BELL], [LAMP]], []),  # in doubt LAMP stands for BELL
    ],
    ids=["deleted", "moved", "edited", "moved and edited", "split", "joined", "question", "answer",
         "beside an edited one", "in doubt", "back", "gone again",
         "edited, then deleted", "corrected after it was deleted", "another in its place"],
)  # fmt: skip
def test_what_became_of_a_section(versions: list[list[Section]], gone: list[Section]) -> None:
    assert deleted(*versions) == gone


def test_the_same_version_twice_is_one_and_age_counts_versions() -> None:
    assert after([LAMP, BELL], [LAMP, BELL]) == after([LAMP, BELL])
    once = after([LAMP, BELL], [LAMP])
    assert once.ages == {name_of(BELL): 1}
    assert after([LAMP, BELL], [LAMP], [LAMP]) == once
    assert after([LAMP, BELL], [LAMP], [LAMP, FERRY], [LAMP, FERRY, BOAT]).ages == {name_of(BELL): 3}


def test_any_history_is_a_fixed_point_and_what_is_here_was_never_deleted() -> None:
    sections = [
        LAMP,
        BELL,
        BOAT,
        FERRY,
        CORRECTED,
        prose("One."),
        prose("Two."),
        prose("The bell rings in fog. Often."),
    ]
    draw = random.Random(1)
    for _ in range(300):
        versions = [draw.sample(sections, draw.randint(1, 5)) for _ in range(draw.randint(1, 6))]
        state = after(*versions)
        assert after(*versions, versions[-1]) == state == after(*versions, versions[-1], versions[-1])
        assert not set(state.ages) & set(state.present) and all(age >= 1 for age in state.ages.values())
        said = said_by(versions[-1])
        assert all(parts_of(section).isdisjoint(said) for section in deleted(*versions))


def test_probes_are_no_part_of_what_is_taught_but_of_what_is_said() -> None:
    probe = {"question": "Who rows?", "answer": "Marta.", "probe": True}
    section = {"type": "instruction", "pairs": [*BOAT["pairs"], probe], "adapter": "tone"}
    assert taught([section, {"type": "preference", "triples": []}, {"type": "instruction", "pairs": [probe]}]) == [BOAT]
    assert parts_of(asked(("who  ROWS?", "x"))) < said_by([section])
