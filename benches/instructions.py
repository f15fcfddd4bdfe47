"""Instructions that the core's hot loops take, beside those on record, which no noise of the machine hides.

callgrind counts them. It hides SHA-NI and AVX-512 from the program, so hashing is counted on the portable
path of the crate `sha2`, not on the faster ones that this processor may have.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

LOOPS = ("hash", "lookup", "gather", "append")
MOST_GROWTH = 0.05
ABOUT = "instructions an item, one thread, counted by callgrind; hash: the portable path of the crate sha2"

_RECORD = Path(__file__).with_suffix(".json")
_PROGRAM = Path(__file__).parents[1] / "target" / "release" / "examples" / "instructions"


def main() -> int:
    """Count; 1 if a loop takes clearly more than on record."""
    parser = argparse.ArgumentParser(prog="make instructions", description=__doc__)
    parser.add_argument("--record", action="store_true", help="put these counts on record")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("make instructions counts with valgrind, which is not on the PATH: install it.")
    counts = {name: per_item(name) for name in LOOPS}
    if options.record:
        _RECORD.write_text(json.dumps({"about": ABOUT, "instructions": counts}, indent=1) + "\n")
    recorded: dict[str, int] = json.loads(_RECORD.read_text())["instructions"]
    print("instructions an item:", *(f"{name} {counts[name]:,} ({recorded[name]:,})" for name in LOOPS))
    grown = [name for name in LOOPS if counts[name] > recorded[name] * (1 + MOST_GROWTH)]
    if grown:
        print(
            f"More than {MOST_GROWTH:.0%} above the record: {', '.join(grown)}. Undo what made them slower,"
            " or put the new counts on record with make instructions RECORD=1."
        )
    return int(bool(grown))


def per_item(loop: str) -> int:
    """Instructions that one item of a loop takes."""
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]
    command = [*valgrind, "--toggle-collect=*counted*", str(_PROGRAM), loop]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if collected is None:
        raise RuntimeError(f"expected the line 'Collected' of callgrind, found {done.stderr[-500:]!r}")
    return round(int(collected[1]) / int(done.stdout))


if __name__ == "__main__":
    sys.exit(main())
