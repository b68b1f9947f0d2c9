"""What a build ran under: pins, base, plan, hardware tier; and what a project holds everybody to (dlm.lock)."""

from typing import Literal, get_args

Mode = Literal["", "strict", "update", "ignore"]
"""How a run treats the lock: by severity; warnings refuse too; take what is here; as if there were none."""

MODES: tuple[Mode, ...] = get_args(Mode)
