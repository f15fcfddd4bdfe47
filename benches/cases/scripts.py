"""Texts in other scripts than Latin, of as many bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from benches import checks
from benches.cases.base import STANDARD, Case, Measured, Place, measured
from benches.work import Setup

ENGLISH, CHINESE, ARABIC, EMOJI = "English", "Chinese", "Arabic", "emoji"


def _chinese(text: str) -> str:
    """Three bytes become one ideograph, and every sixth a comma."""
    return "".join(
        "\uff0c" if at % 18 == 15 else chr(0x4E00 + hash_of(text[at : at + 3]))
        for at in range(0, len(text) - 2, 3)
    )


def _arabic(text: str) -> str:
    """Two letters of a word become one; the spaces stay."""
    words = (
        "".join(chr(0x627 + ord(word[at]) % 36) for at in range(0, len(word) - 1, 2)) for word in text.split()
    )
    return " ".join(filter(None, words))


def _emoji(text: str) -> str:
    """Four bytes become one emoji."""
    return "".join(chr(0x1F600 + hash_of(text[at : at + 4]) % 80) for at in range(0, len(text) - 3, 4))


def hash_of(text: str) -> int:
    """A number below 20,000, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % 20_000


_SCRIPTS: dict[str, Callable[[str], str]] = {
    ENGLISH: str,
    CHINESE: _chinese,
    ARABIC: _arabic,
    EMOJI: _emoji,
}


class Scripts(Case):
    """The keys of a list of texts in one script; what is counted are bytes of UTF-8, not texts."""

    name = "scripts"
    title = "Keys of a list, by script"
    item = "KiB of UTF-8"

    def setups(self, small: bool) -> Sequence[Setup]:
        return super().setups(small) if small else STANDARD[1:2]

    def contestants(self) -> Sequence[str]:
        return tuple(_SCRIPTS)

    def measure(self, place: Place) -> Measured:
        from dejavec.keys.items import text_keys

        texts = [_SCRIPTS[place.contestant](text) for text in place.work.texts()]
        encoded = [text.encode() for text in texts]
        kibibytes = sum(map(len, encoded)) >> 10
        expected = b"".join(hashlib.sha256(text).digest() for text in encoded)
        del encoded
        found, keys = measured(lambda: text_keys(texts), kibibytes)
        checks.equal("all keys the same", keys.tobytes() == expected, True)
        return found
