"""The colour and the marker of each contestant: the same in every plot, and told apart in grey too."""

from __future__ import annotations

from dataclasses import dataclass

from benches import floors
from benches.cases import evaluate


@dataclass(frozen=True)
class Style:
    """How a contestant is drawn.

    Attributes:
        colour: as ``"#rrggbb"``.
        marker: matplotlib's name of what its points are.
    """

    colour: str
    marker: str

    @property
    def lightness(self) -> float:
        """CIE L*, from 0 for black to 100 for white: what a copy in grey keeps of the colour."""
        channels = (int(self.colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        luminance = sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


# We are blue, mteb's caches red, floors grey; steps of lightness tell those of one plot apart.
STYLES = {
    "dejavec": Style("#043571", "o"),
    "dejavec, list[str]": Style("#004f90", "s"),
    "dejavec, verify=False": Style("#0569ab", "^"),
    "dejavec FaissCache": Style("#1b86c2", "D"),
    "dejavec, out=": Style("#086b8e", "8"),
    "dejavec, synced at close": Style("#136c98", "o"),
    "dejavec, no snapshot": Style("#1288da", "s"),
    "dejavec, one row repaired": Style("#5da6e7", "^"),
    "dejavec, writer killed": Style("#5768b4", "D"),
    "mteb NumpyCache": Style("#b70011", "X"),
    "mteb FaissCache": Style("#e56507", "P"),
    "LMDB": Style("#22832b", "v"),
    "LMDB, not synced": Style("#398f56", "1"),
    "RocksDB": Style("#1fb8b6", "<"),
    "RocksDB, not synced": Style("#13a9b2", "3"),
    "SQLite": Style("#cab421", ">"),
    "SQLite, not synced": Style("#3f3700", "4"),
    "diskcache": Style("#6c1289", "p"),
    "LangChain": Style("#fea8c2", "h"),
    "dict + NumPy": Style("#472201", "*"),
    floors.SHA256_ALL: Style("#989898", "."),
    floors.TAKE: Style("#b3b3b3", "x"),
    floors.WRITE: Style("#2c2c2c", "+"),
    evaluate.MINILM: Style("#d78f00", "d"),
}

SAME = {evaluate.OURS: "dejavec", evaluate.MTEBS: "mteb NumpyCache"}
"""Contestants of whole evaluations, and what they are called elsewhere."""


def of(contestant: str) -> Style:
    """How a contestant is drawn."""
    return STYLES[SAME.get(contestant, contestant)]
