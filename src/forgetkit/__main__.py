"""``python -m forgetkit``."""

import sys

from forgetkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
