"""How a test lets workers find the handlers in `handlers/`, which misbehave on purpose.

That folder holds a module and a `.dist-info`, so for `importlib.metadata` it is an installed
distribution as soon as it is on PYTHONPATH.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

HANDLERS = Path(__file__).parent / "handlers"


def environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`base`, so that workers started with it serve `mark`, `gpu_lock`, `crash` and the others."""
    paths = [str(HANDLERS), *filter(None, base.get("PYTHONPATH", "").split(os.pathsep))]
    return {**base, "PYTHONPATH": os.pathsep.join(paths)}
