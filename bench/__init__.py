"""The bench: Corral beside its peers, measured in one run.

Nothing here is part of the product, and nothing of the product imports it.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent  # the bench's own environment
