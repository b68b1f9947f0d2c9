"""What an importance matrix is worth: the handbook's merged models without and with it.

    python -m tests.bench.imatrix [QUANT...]

Of each file the agreement with the trained model, the divergence and the perplexity on its own rows, as the export's
manifest has them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dlmbuild.build.reading import read_json
from dlmbuild.doc.document import parse
from dlmbuild.export.parity import in_words
from tests.bench.cost import SCRIPTS, cost
from tests.bench.null import REAL

HANDBOOK = Path(__file__).parent.parent.parent / "examples" / "handbook" / "handbook.dlm"
QUANTS = ("Q4_K_M", "Q3_K_M", "Q2_K")


def compare(quants: Sequence[str], home: Path, environment: Mapping[str, str]) -> None:
    """Print a line for each file, built below `home` where it is not yet."""
    exports = home / "store" / parse(HANDBOOK).frontmatter.dlm_id / "exports"
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "dodo.py").write_text(REAL)
        text = HANDBOOK.read_text("utf-8")
        for asked in ("off", "auto"):
            header = f"dlm_version: 16\nexport: {{imatrix: {asked}}}"
            (project / HANDBOOK.name).write_text(text.replace("dlm_version: 15", header, 1), "utf-8")
            for quant in quants:
                cost([str(SCRIPTS / "doit"), f"export:{quant}"], project, environment)
                smoke = read_json(exports / quant / "export_manifest.json")["smoke"]
                print(f"{quant}, imatrix {asked}: {in_words(smoke)}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(os.environ.get("DLM_HOME", folder))
        compare(sys.argv[1:] or QUANTS, home, {**os.environ, "DLM_HOME": str(home)})


if __name__ == "__main__":
    main()
