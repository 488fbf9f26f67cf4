"""The tests; where the repository is, and where measurements and images may be that it does not hold."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("NAS_SHARED", ROOT.parent / "shared"))  # tests that use it skip where it is not
