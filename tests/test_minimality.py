"""Edits of every kind, and exactly the steps that each may run: more is a failure as much as less.

The graph is the real one, the heavy jobs write digests (tests/history.py).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable

import pytest

from dlmbuild.hardware.detect import this_machine
from tests.history import ID, History
from tests.workshop import BODY, HEAD, Ran, Workshop

pytestmark = pytest.mark.model

CHECK = {"check:tower"}
PLAN = {"plan:tower"}
DATASET = {"dataset:tower"}
EXPORT = {"export:tower:Q4_K_M"}
ADAPTER = {"train:tower", "imatrix:tower", "parity:tower", "merge:tower:Q4_K_M", "smoke:tower:Q4_K_M", *EXPORT}
NOTHING: set[str] = set()
OTHER_PRECISION = "fp32" if this_machine().precision == "bf16" else "bf16"

Edit = Callable[[Workshop], object]


def text(old: str, new: str) -> Edit:
    return lambda w: w.edit("tower", old, new)


def key(line: str) -> Edit:
    return text("dlm_version: 15\n", f"dlm_version: 15\n{line}\n")


def training(value: str) -> Edit:
    return text("training: {seed: 1}", f"training: {{seed: 1, {value}}}")


def newer_training(value: str) -> Edit:
    """For keys that version 16 has first."""

    def edit(w: Workshop) -> None:
        w.edit("tower", "dlm_version: 15", "dlm_version: 16")
        training(value)(w)

    return edit


def newline(w: Workshop) -> None:
    path = w.folder / "tower.dlm"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def reorder_keys(w: Workshop) -> None:
    w.edit("tower", "dlm_version: 15\nbase_model: file:./base\n", "base_model: file:./base\ndlm_version: 15\n")


def swap_sections(w: Workshop) -> None:
    prose, _, questions = BODY.partition("::instruction::")
    w.edit("tower", BODY, f"::instruction::{questions}\n::prose::\n{prose}")


def touch_everything(w: Workshop) -> None:
    for path in [*w.folder.rglob("*"), *w.home.rglob("*")]:
        if path.is_file() and "stat.sqlite" not in path.name:
            os.utime(path)


def rename(w: Workshop) -> None:
    (w.folder / "tower.dlm").rename(w.folder / "keep.dlm")


def edit_and_revert(w: Workshop) -> None:
    w.edit("tower", "in fog", "at noon")
    w.doit("train")
    w.edit("tower", "at noon", "in fog")


def remove(name: str) -> Edit:
    return lambda w: (w.home / "store" / ID / name).unlink()


def damage(name: str) -> Edit:
    def edit(w: Workshop) -> None:
        path = w.home / "store" / ID / name
        path.chmod(0o644)
        path.write_bytes(b"?" + path.read_bytes()[1:])

    return edit


def base_file(name: str, old: str, new: str) -> Edit:
    def edit(w: Workshop) -> None:
        path = w.folder / "base" / name
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))

    return edit


def name_a_source(w: Workshop) -> None:
    write("docs/a.md", "Ships wait.")(w)
    training("sources: [{path: docs}]")(w)


def write(name: str, content: str | bytes) -> Edit:
    def edit(w: Workshop) -> None:
        path = w.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def move(old: str, new: str) -> Edit:
    return lambda w: (w.folder / old).rename(w.folder / new)


def delete(name: str) -> Edit:
    return lambda w: (w.folder / name).unlink()


def lose_records(w: Workshop) -> None:
    shutil.rmtree(w.home / "records")


TABLE: dict[str, tuple[Edit, set[str], set[str]]] = {
    # what happens: (edit, steps that are built, steps that are restored)
    "preference": (training("preference: {hyperparams: {beta: 0.2}}"), CHECK, NOTHING),  # the document has none
    "nothing": (lambda w: None, NOTHING, NOTHING),
    "adapters": (  # a name for the only adapter: what it is made of is what it was
        training("adapters: {one: {}}"),
        CHECK | PLAN | {"parity:tower:one", *(f"{verb}:tower:one:Q4_K_M" for verb in ("merge", "export"))},
        {"dataset:tower:one", "train:tower:one", "imatrix:tower:one", "smoke:tower:one:Q4_K_M"},
    ),
    "a comment in the frontmatter": (key("# a comment"), CHECK, NOTHING),
    "a comment after a value": (text("base_model: file:./base", "base_model: file:./base  # mine"), CHECK, NOTHING),
    "the order of keys": (reorder_keys, CHECK, NOTHING),
    "a default that is written out": (key("system_prompt: null"), CHECK, NOTHING),
    "quotes around a value": (text("base_model: file:./base", "base_model: 'file:./base'"), CHECK, NOTHING),
    "an older format version": (text("dlm_version: 15", "dlm_version: 14"), CHECK, NOTHING),
    "blank lines between sections": (text("\n::instruction::", "\n\n\n::instruction::"), CHECK, NOTHING),
    "blank lines at the end": (text("in fog.\n", "in fog.\n\n\n"), CHECK, NOTHING),
    "blanks at a line's end": (text("\n\n### Q\nWhen", "  \n\n### Q\nWhen"), CHECK, NOTHING),
    "blanks behind a header": (text("### A\nThe keeper", "### A   \nThe keeper"), CHECK, NOTHING),
    "CRLF": (newline, CHECK, NOTHING),
    "no newline at the end": (text("in fog.\n", "in fog."), CHECK, NOTHING),
    "one answer": (text("in fog", "at noon"), CHECK | DATASET | ADAPTER, NOTHING),
    "one question": (text("Who trims the lamp?", "Who trims our lamp?"), CHECK | DATASET | ADAPTER, NOTHING),
    "a word of prose": (text("grey granite", "red granite"), CHECK | DATASET | ADAPTER, NOTHING),
    "a new section": (text("in fog.\n", "in fog.\n\n::prose::\nMore.\n"), CHECK | DATASET | ADAPTER, NOTHING),
    "the order of sections": (swap_sections, CHECK | DATASET | ADAPTER, NOTHING),
    "a question turned into a probe": (
        text("### Q\nWhen", "### Q !probe\nWhen"),
        CHECK | DATASET | ADAPTER,
        NOTHING,
    ),
    "a preference": (
        text("in fog.\n", "in fog.\n\n::preference::\n### Prompt\na\n### Chosen\nb\n### Rejected\nc\n"),
        CHECK | PLAN | DATASET | {"prefer:tower"} | ADAPTER - {"train:tower"},  # a phase of its own
        {"train:tower"},
    ),
    "the system prompt": (key("system_prompt: Be short."), CHECK | DATASET | ADAPTER, NOTHING),
    "the temperature of the export": (
        text("default_temperature: 0.0", "default_temperature: 0.7"),
        CHECK | EXPORT,
        NOTHING,
    ),
    "top_p of the export": (
        text("default_temperature: 0.0", "default_temperature: 0.0, default_top_p: 0.9"),
        CHECK | EXPORT,
        NOTHING,
    ),
    "the default quantisation": (
        text("default_temperature: 0.0", "default_temperature: 0.0, default_quant: Q8_0"),
        CHECK,  # another default does not change what Q4_K_M is
        NOTHING,
    ),
    "the seed": (text("seed: 1", "seed: 2"), CHECK | PLAN | ADAPTER, NOTHING),
    "learning_rate": (training("learning_rate: 1e-3"), CHECK | PLAN | ADAPTER, NOTHING),
    "num_epochs": (training("num_epochs: 2"), CHECK | PLAN | ADAPTER, NOTHING),
    "micro_batch_size": (training("micro_batch_size: 1"), CHECK | PLAN | ADAPTER, NOTHING),
    "grad_accum": (training("grad_accum: 3"), CHECK | PLAN | ADAPTER, NOTHING),
    "lora_r": (training("lora_r: 4"), CHECK | PLAN | ADAPTER, NOTHING),
    "lora_alpha": (training("lora_alpha: 4"), CHECK | PLAN | ADAPTER, NOTHING),
    "lora_dropout": (training("lora_dropout: 0.2"), CHECK | PLAN | ADAPTER, NOTHING),
    "adapter": (training("adapter: dora"), CHECK | PLAN | ADAPTER, NOTHING),
    "validation": (newer_training("validation: 0.5"), CHECK | PLAN | DATASET | ADAPTER, NOTHING),
    "early_stopping": (
        newer_training("validation: 0.5, early_stopping: 2"),
        CHECK | PLAN | DATASET | ADAPTER,
        NOTHING,
    ),
    "cpt": (training("cpt: {schedule: sft}"), CHECK | PLAN | ADAPTER, NOTHING),
    "weight of prose": (newer_training("cpt: {weight: 2}"), CHECK | PLAN | ADAPTER, NOTHING),
    "incremental": (newer_training("incremental: warm"), CHECK | PLAN, NOTHING),
    "rslora": (newer_training("rslora: true"), CHECK | PLAN | ADAPTER, NOTHING),
    "target_modules": (training("target_modules: [q_proj]"), CHECK | PLAN | ADAPTER, NOTHING),
    "replay": (newer_training("replay: 0.1"), CHECK | PLAN | DATASET, NOTHING),  # there is no history yet
    "layers": (newer_training("layers: last 1"), CHECK | PLAN | ADAPTER, NOTHING),
    "wordings": (newer_training("wordings: 3"), CHECK | PLAN | ADAPTER, NOTHING),
    "layers that are all there are": (newer_training("layers: last 2"), CHECK | PLAN, NOTHING),
    "cache": (training("cache: {max_bytes: 5, enabled: false}"), CHECK | PLAN, NOTHING),
    "lr_scheduler": (training("lr_scheduler: constant"), CHECK | PLAN | ADAPTER, NOTHING),
    "warmup_ratio": (training("warmup_ratio: 0.1"), CHECK | PLAN | ADAPTER, NOTHING),
    "precision": (training(f"precision: {OTHER_PRECISION}"), CHECK | PLAN | ADAPTER, NOTHING),
    "sequence_len": (training("sequence_len: 128"), CHECK | PLAN | DATASET | ADAPTER, NOTHING),
    "a training value that auto means anyway": (training("num_epochs: 3"), CHECK | PLAN, NOTHING),
    "sources": (name_a_source, CHECK | DATASET | ADAPTER, NOTHING),
    "sources_policy": (training("sources_policy: strict"), CHECK, NOTHING),
    "every time stamp": (touch_everything, NOTHING, NOTHING),
    "the document's name": (rename, NOTHING, NOTHING),
    "an edit taken back": (
        edit_and_revert,
        NOTHING,
        {"check:tower", "dataset:tower", "train:tower"},
    ),
    "a lost database": (lambda w: (w.folder / ".doit.db").unlink(), NOTHING, NOTHING),
    "a lost stat cache": (lambda w: (w.home / "stat.sqlite").unlink(), NOTHING, NOTHING),
    "a damaged adapter": (damage("adapter/versions/v0001/adapter_model.safetensors"), NOTHING, {"train:tower"}),
    "a missing pointer": (remove("adapter/current.txt"), NOTHING, {"train:tower"}),
    "a damaged plan": (damage("plan.json"), NOTHING, PLAN),
    "a missing document.json": (remove("document.json"), NOTHING, CHECK),
    "a damaged shard": (damage("dataset/document.jsonl"), NOTHING, DATASET),
    "a missing Modelfile": (remove("exports/Q4_K_M/Modelfile"), NOTHING, EXPORT),
    "a damaged export": (damage("exports/Q4_K_M/model.Q4_K_M.gguf"), NOTHING, EXPORT),
    "a damaged merge": (damage("cache/model.Q4_K_M.gguf"), NOTHING, {"merge:tower:Q4_K_M"}),
    "a missing report": (remove("cache/parity.json"), NOTHING, {"parity:tower"}),
    "the manifest": (remove("manifest.json"), NOTHING, NOTHING),
    "the store's lock": (remove("dlm.lock"), NOTHING, NOTHING),
}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    history = History(tmp_path_factory.mktemp("once"), 0)
    history.shop.doit("export:Q4_K_M")
    return history.shop.kept()


@pytest.fixture
def shop(once: Workshop) -> Workshop:
    return once.again()


def without_base(ran: Ran) -> tuple[set[str], set[str]]:
    steps, restored = set(ran.steps), set(ran.restored)
    return {s.replace(":keep", ":tower") for s in steps}, {s.replace(":keep", ":tower") for s in restored}


@pytest.mark.parametrize("what", TABLE)
def test_exactly_these_steps_run(shop: Workshop, what: str) -> None:
    edit, built, restored = TABLE[what]
    shop.dlm("build", "export:Q4_K_M")  # leaves a note of what is here, which must not hide the edit
    edit(shop)
    assert without_base(shop.dlm("build", "export:Q4_K_M")) == (built, restored)
    again = shop.doit("export:Q4_K_M")
    assert again.steps == again.restored == []


SOURCES: dict[str, tuple[Edit, set[str]]] = {
    # what happens to a document with 300 source files: (edit, steps that are built)
    "nothing": (lambda w: None, NOTHING),
    "a source file": (write("docs/d1/f001.md", "A new text."), CHECK | DATASET | ADAPTER),
    "a file that is ignored": (write("docs/d1/x.log", "more"), NOTHING),
    "a file that is not included": (write("docs/d1/x.txt", "more"), NOTHING),
    "a binary file": (write("docs/d1/binary.md", b"\0more"), NOTHING),
    "a file in a vendored folder": (write("docs/node_modules/x/y.md", "more"), NOTHING),
    "a new file in a vendored folder": (write("docs/node_modules/x/z.md", "new"), NOTHING),
    "a binary file that becomes text": (write("docs/d1/binary.md", "text"), CHECK | DATASET | ADAPTER),
    "a new file": (write("docs/d1/new.md", "New."), CHECK | DATASET | ADAPTER),
    "a new file that is ignored": (write("docs/d1/new.log", "New."), CHECK),  # the count of what is left out
    "a deleted file": (delete("docs/d1/f001.md"), CHECK | DATASET | ADAPTER),
    "a renamed file": (move("docs/d1/f001.md", "docs/d1/g001.md"), CHECK | DATASET | ADAPTER),
    "a renamed folder": (move("docs/d1", "docs/e1"), CHECK | DATASET | ADAPTER),
    "an ignore file that says the same": (write("docs/.dlm/ignore", "# logs\n*.log\n"), NOTHING),
    "an ignore file": (write("docs/.dlm/ignore", "*.log\nf00*\n"), CHECK | DATASET | ADAPTER),
    "a new ignore file": (write("docs/d2/.dlm/ignore", "*\n"), CHECK | DATASET | ADAPTER),
    "training.yaml": (write("docs/d3/.dlm/training.yaml", "include: ['*1*.md']\n"), CHECK | DATASET | ADAPTER),
    "a weight": (
        write("docs/d3/.dlm/training.yaml", "metadata: {kind: log}\nweights: {kind: {log: 2}}\n"),
        CHECK | DATASET | ADAPTER,
    ),
    "metadata that weighs nothing": (write("docs/d3/.dlm/training.yaml", "metadata: {kind: log}\n"), NOTHING),
    "the source's path in other words": (text("path: docs,", "path: ./docs/,"), CHECK),
    "an include that says the same": (text("include: ['*.md']", "include: ['**/*.md']"), CHECK),
    "an exclude": (text("path: docs,", "path: docs, exclude: [d5],"), CHECK | DATASET | ADAPTER),
    "max_files": (text("path: docs,", "path: docs, max_files: 5,"), CHECK | DATASET | ADAPTER),
    "max_bytes_per_file": (text("path: docs,", "path: docs, max_bytes_per_file: 10,"), CHECK | DATASET | ADAPTER),
    "the policy": (text("sources: [", "sources_policy: strict, sources: ["), CHECK),
    "a document beside it": (write("docs/d1/.dlm/x.md", "New."), NOTHING),
    "a lost memory": (lambda w: shutil.rmtree(w.home / "sources"), NOTHING),
}


@pytest.fixture(scope="module")
def once_with_sources(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    history = History(tmp_path_factory.mktemp("sources"), 0)
    shop = history.shop
    for number in range(300):
        write(f"docs/d{number % 7}/f{number:03}.md", f"# File {number}\n\nIts number is {number}.\n")(shop)
    for name in ("d1/x.log", "d1/x.txt", "node_modules/x/y.md"):
        write(f"docs/{name}", "text")(shop)
    write("docs/d1/binary.md", b"\0")(shop)
    write("docs/.dlm/ignore", "*.log\n")(shop)
    training("sources: [{path: docs, include: ['*.md']}]")(shop)
    shop.doit("export:Q4_K_M")
    return shop.kept()


@pytest.fixture
def shop_with_sources(once_with_sources: Workshop) -> Workshop:
    return once_with_sources.again()


@pytest.mark.parametrize("what", SOURCES)
def test_exactly_these_steps_run_for_sources(shop_with_sources: Workshop, what: str) -> None:
    shop = shop_with_sources
    edit, built = SOURCES[what]
    before = {path.name for path in (shop.home / "objects").rglob("*")}
    edit(shop)
    ran = shop.doit("export:Q4_K_M")
    assert (set(ran.steps), ran.restored) == (built, [])
    again = shop.doit("export:Q4_K_M")
    assert again.steps == again.restored == []
    if what in ("a source file", "a new file", "a deleted file"):
        shards = [path.name for path in (shop.home / "store" / ID / "dataset").glob("source-*")]
        index = json.loads((shop.home / "store" / ID / "dataset.json").read_bytes())["shards"]
        assert len(shards) > 2 and len(set(index.values()) - before) == 1


def test_dlm_build_misses_nothing_in_sources(shop_with_sources: Workshop) -> None:
    shop = shop_with_sources
    shop.dlm("build", "export:Q4_K_M")
    for what in (
        "nothing",
        "a file that is ignored",
        "a source file",
        "a new file",
        "a renamed folder",
        "training.yaml",
    ):
        edit, built = SOURCES[what]
        edit(shop)
        assert set(shop.dlm("build", "export:Q4_K_M").steps) == built, what
    shop.dlm("build", "export:Q4_K_M")
    imported = shop.dlm("build", "export:Q4_K_M", PYTHONPROFILEIMPORTTIME="1").err
    assert "dlmbuild.cli.build" in imported and "doit" not in imported


def test_every_field_of_the_frontmatter_is_in_the_table() -> None:
    from dlmbuild.doc.schema import UNBUILT_BLOCKS, Export, Frontmatter, Training

    fields = {*Training.model_fields, *Export.model_fields, *Frontmatter.model_fields}
    elsewhere = {
        "training",
        "export",
        "evaluate",
        "dlm_id",
        "dlm_version",
        "base_model",
        "optimizer",
        "system_prompt",
        "seed",
        "default_quant",
        "default_temperature",
        "default_top_p",
        "mixes",
        "gate",
        "imatrix",
        "retention",
    }  # fmt: skip  (blocks; identity, base below; one value; rows under other words; tests of their own)
    unbuilt = {key.rpartition(".")[2] for key in UNBUILT_BLOCKS}  # nothing but their defaults is let in
    assert fields - elsewhere - unbuilt <= TABLE.keys()


def test_a_second_document_another_quantisation_and_another_base(shop: Workshop) -> None:
    assert len(TABLE) >= 40
    (shop.folder / "harbour.dlm").write_text(
        HEAD.format(dlm_id="01HZX3Q5J8K9M2N4P6R8T0V2W5", base="file:./base", more="") + "Ships wait.\n"
    )
    ran = shop.doit("export:Q4_K_M")
    verbs = {step.partition(":")[0] for step in ran.steps}
    assert verbs == {"check", "plan", "dataset", "train", "imatrix", "parity", "merge", "smoke", "export"}
    assert all(":harbour" in step for step in ran.steps)
    ran = shop.doit("export:tower:Q8_0")
    assert [step.partition(":")[0] for step in ran.steps] == ["quantize", "merge", "smoke", "export"]
    base_file("config.json", '"rope_theta"', '"rope_theta" ')(shop)
    ran = shop.doit("export:tower:Q4_K_M")
    assert {step.partition(":")[0] for step in ran.steps} >= {"base", "gguf", "quantize", "train", "export"}
    assert "check:tower" not in ran.steps and "dataset:tower" not in ran.steps


def test_lost_records_are_made_again_to_the_same_bytes(shop: Workshop) -> None:
    before = (shop.home / "store" / ID / "exports" / "Q4_K_M" / "export_manifest.json").read_bytes()
    lose_records(shop)
    assert set(shop.doit("export:Q4_K_M").steps) >= EXPORT
    assert (shop.home / "store" / ID / "exports" / "Q4_K_M" / "export_manifest.json").read_bytes() == before


def test_dlm_build_knows_without_doit_that_there_is_nothing_to_do(shop: Workshop) -> None:
    assert "up to date" in shop.dlm("build", "export:Q4_K_M").out  # doit said so, and it was noted
    quick = shop.dlm("build", "export:Q4_K_M", PYTHONPROFILEIMPORTTIME="1")
    assert "everything is up to date (12 steps)" in quick.out
    imported = {line.rpartition("|")[2].strip() for line in quick.err.splitlines() if line.startswith("import time:")}
    assert "dlmbuild.cli.build" in imported
    assert not imported & {"doit", "sqlite3", "dlmbuild.build.project", "dlmbuild.store.layout", "argparse", "hashlib"}


def test_dlm_build_sees_a_new_document_and_another_lock_mode(shop: Workshop) -> None:
    shop.dlm("build")
    shop.dlm("build")
    (shop.folder / "harbour.dlm").write_text(
        HEAD.format(dlm_id="01HZX3Q5J8K9M2N4P6R8T0V2W5", base="file:./base", more="") + "Ships wait.\n"
    )
    assert "export:harbour:Q4_K_M" in shop.dlm("build").steps
    (shop.folder / "harbour.dlm").unlink()
    assert "(12 steps)" in shop.dlm("build").out
    assert "(12 steps)" in shop.dlm("--ignore-lock", "build").out
