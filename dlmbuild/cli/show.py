"""Show what was built from the documents of this project: adapters, exports, trainings, and what uses the disk."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from dlmbuild.cli.words import as_json, documents_meant


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("document", nargs="?", help="name or path of one document (default: all of this project)")
    parser.add_argument("--size", action="store_true", help="also what uses the disk")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.build.forecast import known_gate, known_vocabulary
    from dlmbuild.build.history import describe
    from dlmbuild.build.trained import adapters
    from dlmbuild.store.inspect import describe_store, disk_use

    project, documents = documents_meant(arguments.document)
    shown = {}
    for document in documents:
        facts: dict[str, Any] = {"document": str(document.path), "dlm_id": document.dlm_id, "base": document.base.text}
        facts |= describe_store(document.store, document.dlm_id, [*document.adapters, *document.mixes])
        for trained in adapters([document]):
            told = facts["adapters"][trained.name] if trained.name else facts
            told["deleted"] = describe(trained, project.archive)
            told["vocabulary"] = known_vocabulary(trained)
        if document.gated:
            facts["gate"] = known_gate(document)
        facts["store"] = str(document.store.root)
        if arguments.size:
            facts["bytes"] = disk_use(project.archive.home, document.store, project.base_folder(document.base))
        shown[document.name] = facts
    print(as_json(shown) if arguments.json else "\n\n".join(map(_text, shown.items())))
    return 0


def _text(shown: tuple[str, dict[str, Any]]) -> str:
    from dlmbuild.data.gate import told as gate_told
    from dlmbuild.data.vocabulary import told

    name, facts = shown
    lines = [name]
    for field, value in facts.items():
        if field == "adapters":
            lines += [textwrap.indent(_text(one), "  ") for one in value.items()]
        elif field == "deleted":
            lines += ["  deleted, and replayed less and less:"] * bool(value)
            ages = [f"{one['age']} version{'s' * (one['age'] > 1)} ago" for one in value]
            lines += [f"    {one['section']}  {age}  {one['begins']}" for one, age in zip(value, ages, strict=True)]
        elif field == "bytes":
            lines += [f"  {kind + ':':<38}{size / 1e6:10.1f} MB" for kind, size in value.items()]
        elif field == "compared":
            lines += _table(value)
        else:
            text = {"vocabulary": told, "gate": gate_told}[field](value) if isinstance(value, dict) else value
            text = ", ".join(text) if isinstance(text, list) else text
            lines.append(f"  {field.replace('_', ' ') + ':':<18}{'none' if text in (None, '') else text}")
    return "\n".join(lines)


def _table(compared: dict[str, dict[str, Any]]) -> list[str]:
    """How far each export is from the trained model."""
    lines = [f"  {'beside the trained model:':<38}top-1      KL ≥   perplexity  (trained)"] if compared else []
    for export, numbers in compared.items():
        kl, perplexity = numbers["kl"]["mean"], numbers["perplexity"]
        lines.append(
            f"    {export:<34}{numbers['agreement']:>7.1%}{kl:>10.4f}{perplexity['file']:>13.2f}"
            f"{'(' + format(perplexity['trained'], '.2f') + ')':>11}"
        )
    return lines
