"""``python -m nodecompat``: the same program as ``nodecompat``."""

import sys

from nodecompat.cli import main

if __name__ == "__main__":
    sys.exit(main())
