"""``python -m dejavec``."""

import sys

from dejavec.cli import main

if __name__ == "__main__":
    sys.exit(main())
