"""Everything a person can get wrong, as a tree.

    DlmError                    any of them: what was found, where, why it is wrong, what to do
    ├── UsageError              the command line itself (exit code 2)
    ├── MissingExtra            a build needs packages that the light installation leaves out
    ├── DocumentError           one mistake in a document, with file:line:col
    ├── InvalidDocument         all mistakes of a document at once
    ├── BaseModelError          a base that is unknown, unreachable, damaged, or of a kind we cannot build on
    ├── LicenceError            a base whose licence has to be accepted first
    ├── HardwareError           a plan that does not fit this machine
    ├── LockError               the environment is not what dlm.lock holds the project to
    ├── StoreError              a file of the store that is missing or is not what its record says
    ├── DataError               rows that cannot be trained as they stand
    ├── PackError               a pack that is damaged, hostile, or in the way of what is here
    ├── TrainingError           training that went wrong, for example a loss that is not a number
    ├── ExportError             an adapter or a base that cannot be exported as asked
    ├── SmokeError              an export that a runtime does not load, or that answers unlike the trained model
    ├── EvaluationError         a model that does not reach what its document asks for
    └── JobError                a job process that died without saying why

A DlmError is for people: its text is one sentence of what and why, then what to type or edit next. Anything else that
escapes is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """A position in a file: line and column count from 1; 0 means "the file as a whole"."""

    path: str
    line: int = 0
    col: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.path
        return f"{self.path}:{self.line}:{self.col}" if self.col else f"{self.path}:{self.line}"


class DlmError(ValueError):
    """A mistake that a person can mend."""

    exit_code = 1
    advice = ""
    """What to do where an error says nothing of its own about it."""

    def __init__(self, what: str, *, where: Where | None = None, why: str = "", do: str = "") -> None:
        self.what = what
        self.where = where
        self.why = why
        self.do = do or self.advice
        super().__init__(what)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{head}: {self.why}" if self.why else head
        return f"{text}\n  → {self.do}" if self.do else text

    def as_data(self) -> dict[str, Any]:
        """The error as JSON data, to cross from a job process to the build."""
        where = [self.where.path, self.where.line, self.where.col] if self.where else None
        return {"class": type(self).__name__, "what": self.what, "where": where, "why": self.why, "do": self.do}

    @staticmethod
    def from_data(data: dict[str, Any]) -> DlmError:
        """The inverse of `as_data`; an unknown class comes back as a plain DlmError."""
        kind = next((c for c in DlmError.__subclasses__() if c.__name__ == data["class"]), DlmError)
        if kind is InvalidDocument:
            kind = DocumentError
        where = Where(*data["where"]) if data["where"] else None
        return kind(data["what"], where=where, why=data["why"], do=data["do"])


class UsageError(DlmError):
    exit_code = 2


class MissingExtra(DlmError):
    pass


class DocumentError(DlmError):
    pass


class InvalidDocument(DlmError):
    """All errors of one document, in the order of their lines."""

    def __init__(self, errors: Sequence[DlmError]) -> None:
        if not errors:
            raise AssertionError("InvalidDocument without an error")
        self.errors = sorted(errors, key=lambda e: e.where or Where(""))
        first = self.errors[0]
        super().__init__(first.what, where=first.where, why=first.why, do=first.do)

    def __str__(self) -> str:
        return "\n".join(str(e) for e in self.errors)


class BaseModelError(DlmError):
    advice = "fetch or save the base again, or take another one"


class LicenceError(DlmError):
    pass


class HardwareError(DlmError):
    """`field` names the setting under `training:` that asks for too much, if it is one."""

    def __init__(self, what: str, *, field: str = "", where: Where | None = None, why: str = "", do: str = "") -> None:
        self.field = field
        super().__init__(what, where=where, why=why, do=do)


class LockError(DlmError):
    pass


class StoreError(DlmError):
    pass


class DataError(DlmError):
    pass


class PackError(DlmError):
    pass


class TrainingError(DlmError):
    pass


class ExportError(DlmError):
    pass


class SmokeError(DlmError):
    pass


class EvaluationError(DlmError):
    pass


class JobError(DlmError):
    pass
