from __future__ import annotations

import sys
from pathlib import Path

# the scripts beside the tests run in processes of their own, too
sys.path.insert(0, str(Path(__file__).parent))
