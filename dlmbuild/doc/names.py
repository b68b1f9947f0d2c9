"""What a document may be called: its name is a part of task names, `verb:document:quantisation`."""

from __future__ import annotations

import re
from typing import Literal, get_args

from dlmbuild.doc.mistakes import Mistakes, shown

Quantisation = Literal[
    "Q4_K_M",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
    "F16",
    "BF16",
    "Q5_K_S",
    "Q5_1",
    "Q5_0",
    "Q4_K_S",
    "Q4_1",
    "Q4_0",
    "IQ4_NL",
    "IQ4_XS",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "IQ3_M",
    "IQ3_S",
    "Q2_K",
    "IQ3_XS",
    "IQ3_XXS",
    "Q2_K_S",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "IQ2_XXS",
    "IQ1_M",
    "IQ1_S",
]
QUANTISATIONS: tuple[Quantisation, ...] = get_args(Quantisation)
USUAL = QUANTISATIONS[:5]
"""Those that every document has tasks for; one of the others has them where it is asked for."""
EXACT = ("F16", "BF16", "Q8_0", "Q6_K")
"""Those that round so little that which inputs matter is of no use to them."""

WEIGHED = QUANTISATIONS[QUANTISATIONS.index("IQ3_XS") :]
"""Those that there are only by an importance matrix: there is no base in them, and no export in two parts."""

VERBS = (
    *("check", "base", "plan", "dataset", "retention", "train", "prefer", "mix", "gguf", "quantize", "parity"),
    *("imatrix", "merge", "smoke", "export", "hub", "runtime", "ollama", "pack", "evaluate", "gate"),
)
"""The first words of our tasks' names, in the order in which their stages follow each other. There is a module of rules
for each; every other task is the person's own."""
RUNTIMES = ("mlx", "vllm")
"""Those that an adapter is written for in a layout of their own."""
_COMMANDS = "list run info clean forget ignore help dumpdb strace tabcompletion reset-dep init prompt serve why"
RESERVED: dict[str, str] = {
    **dict.fromkeys((*VERBS, "report", "bench"), "a task"),
    **dict.fromkeys(_COMMANDS.split(), "a command"),
    **dict.fromkeys(QUANTISATIONS, "a quantisation"),
    **dict.fromkeys(RUNTIMES, "a runtime"),
}
"""Name → what `doit NAME` would mean instead."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_name(name: str, mistakes: Mistakes) -> None:
    """Note what is wrong with a document's name, which is its file name without `.dlm`."""
    if not _NAME.fullmatch(name):
        why = "a name has letters, digits, _, . and -, and starts with a letter or a digit"
    elif name.endswith(".dlm"):
        why = "a .dlm at its end is left off wherever it is typed"
    elif name in RESERVED:
        why = f"`doit {name}` means {RESERVED[name]}"
    else:
        return
    mistakes.add(0, 0, f"a document cannot be called {shown(name)}", why=why, do="rename the file")
