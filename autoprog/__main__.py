"""``python -m autoprog``: the same program, for torchrun."""

from __future__ import annotations

import sys

from autoprog.cli import main

sys.exit(main())
