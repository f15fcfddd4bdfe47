"""``python -m dejavec``."""

import sys

from dejavec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
