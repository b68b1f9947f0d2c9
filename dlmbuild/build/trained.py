"""What is trained of a document: its only adapter, or each that it names; and the mixes of these.

Every stage that makes something of an adapter goes over these, and a document that names none has one without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlmbuild.build.project import Document
from dlmbuild.build.reading import answered, read_json
from dlmbuild.doc.names import WEIGHED
from dlmbuild.doc.routing import ELSEWHERE, routed
from dlmbuild.errors import UsageError
from dlmbuild.store.layout import Store


class Trained(NamedTuple):
    """An adapter of a document, or a mix of some, and where what is made of it lies."""

    document: Document
    name: str = ""
    """"" for the only adapter of a document that names none."""
    prefers: bool = False
    """Whether it is trained on preferences, after the rows."""
    parts: Mapping[str, float] = {}
    """Of a mix: adapter → its weight. An adapter has none."""
    rank: int | None = None
    """Of a mix: the rank that it is cut down to."""

    @property
    def title(self) -> str:
        """What task names call it: `handbook`, `handbook:tone`."""
        return f"{self.document.name}:{self.name}" if self.name else self.document.name

    @property
    def whole(self) -> bool:
        """Whether no LoRA file can hold it: then it is only exported merged."""
        return self.name in self.document.whole

    def merged_alone(self, quant: str) -> str:
        """Why an export of this kind has no base and adapter beside the merged model; "" where it has."""
        if self.whole:
            return "DoRA sets the length of rows, which no LoRA file can hold"
        return f"{quant} is made by an importance matrix of the whole" if quant in WEIGHED else ""

    @property
    def store(self) -> Store:
        return self.document.store.named(self.name)

    @property
    def mixed_of(self) -> list[Trained]:
        """The adapters of a mix; an adapter is one of itself."""
        return [Trained(self.document, name, self.document.adapters[name]) for name in self.parts] or [self]

    @property
    def datasets(self) -> dict[str, Path]:
        """The rows that it, or each of its parts, is trained on, by the roles that they have as inputs."""
        return {f"dataset_{number}": one.store.dataset for number, one in enumerate(self.mixed_of, 1)}

    def longest_row(self) -> int:
        """Tokens of the longest of these rows."""
        return max(int(read_json(path)["counts"]["longest_row"]) for path in self.datasets.values())

    def slot(self, verb: str) -> str:
        """What a step that makes something of it is called in built.json."""
        return f"{verb}:{self.name}" if self.name else verb

    def sections(self) -> list[dict[str, Any]]:
        """The sections that train it, as document.json has them; others are there as `ELSEWHERE`."""
        found: list[dict[str, Any]] = read_json(self.store.document)["sections"]
        if not self.name:
            return found
        return routed(found, list(self.document.adapters), set(self.parts) or {self.name})

    def questions(self) -> list[str]:
        """What its sections ask, probes among them."""
        return [pair["question"] for pair in answered(self.own_sections())]

    def own_sections(self) -> list[dict[str, Any]]:
        """The same, without the others."""
        return [section for section in self.sections() if section["type"] != ELSEWHERE]

    def plan(self) -> dict[str, Any]:
        """Its resolved training parameters. A mix has none."""
        plan = read_json(self.store.plan)
        return dict(plan["adapters"][self.name]) if self.name else plan


def adapters(documents: Iterable[Document]) -> Iterator[Trained]:
    """Every adapter that is trained of some documents, in the order in which they declare them."""
    for document in documents:
        for name, prefers in document.adapters.items():
            yield Trained(document, name, prefers)
        if not document.adapters:
            yield Trained(document, "", document.prefers)


def mixes(documents: Iterable[Document]) -> Iterator[Trained]:
    """Every mix that some documents ask for."""
    for document in documents:
        for name, mix in document.mixes.items():
            yield Trained(document, name, False, mix["weights"], mix["rank"])


def models(documents: Iterable[Document]) -> Iterator[Trained]:
    """Everything that is made into exports: the adapters and the mixes."""
    for document in documents:
        yield from adapters([document])
        yield from mixes([document])


def chosen(document: Document, name: str | None, *, option: str = "--adapter") -> Trained:
    """The adapter or mix of this name; without a name that of a document which has only one.

    Raises UsageError where there is none of that name, or several and no name.
    """
    found = {one.name: one for one in models([document])}
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is not None and name and name in found:
        return found[name]
    from dlmbuild.doc.mistakes import nearest

    if not document.adapters:
        what, why = f"{document.name} has no adapter {name}", "its document names none, so it has only one"
        raise UsageError(what, why=why, do=f"leave {option} out")
    why = f"there are: {', '.join(found)}"
    if name is None:
        raise UsageError(
            f"{document.name} has several adapters", why=why, do=f"say which: {option} {next(iter(found))}"
        )
    do = f"write {nearest(name, found) or 'one of these names'}"
    raise UsageError(f"{document.name} has no adapter {name}", why=why, do=do)
