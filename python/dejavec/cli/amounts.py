"""Amounts as people write and read them: sizes, times, rates and prices."""

from __future__ import annotations

import re

import click

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_SECONDS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86_400}
_NUMBER = re.compile(r"(\d+(?:[_,]\d{3})*(?:\.\d+)?|\.\d+)\s*([kmgbt]?)", re.IGNORECASE)


def number(text: str) -> float:
    """Return a number with an optional suffix.

    Raises:
        ValueError: it is none.

    Example:
        >>> number("1M"), number("2.5k"), number("1_000")
        (1000000.0, 2500.0, 1000.0)
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    return float(re.sub("[_,]", "", found[1])) * _SUFFIXES[found[2].lower()]


def rate(text: str) -> float:
    """Return texts a second, from a text such as ``200/s`` or ``3k/min``, for an option of click.

    Example:
        >>> rate("3k/min"), rate("200")
        (50.0, 200.0)
    """
    count, _, unit = text.partition("/")
    try:
        found = number(count) / _SECONDS[unit.strip() or "s"]
    except (ValueError, KeyError):
        found = 0.0
    if not found:
        raise click.BadParameter(f"expected texts for a time, such as 200/s or 3k/min, found {text!r}")
    return found


def price(text: str) -> float:
    """Return the price of one token, from a text such as ``0.02/1M``, for an option of click.

    Example:
        >>> price("0.02/1M") == price("$0.02") == 2e-8
        True
    """
    amount, _, tokens = text.lstrip("$€").partition("/")
    try:
        return number(amount) / number(tokens or "1M")
    except (ValueError, ZeroDivisionError):
        message = f"expected a price for tokens, such as 0.02/1M, found {text!r}"
        raise click.BadParameter(message) from None


def byte_count(text: str) -> int:
    """Return a size in bytes, from a text such as ``10GB`` or ``500 MB``, for an option of click.

    Example:
        >>> byte_count("1.5kB"), byte_count("10 GB"), byte_count("7")
        (1500, 10000000000, 7)
    """
    plain = text.strip()
    try:
        return int(number(plain[:-1] if plain[-1:] in "bB" and len(plain) > 1 else plain))
    except ValueError:
        raise click.BadParameter(f"expected a size, such as 10GB, found {text!r}") from None


def duration_text(seconds: float) -> str:
    """Return a time.

    Example:
        >>> duration_text(0.4), duration_text(75), duration_text(7_500), duration_text(200_000)
        ('0.4 s', '1 min 15 s', '2 h 5 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for size, name, part, part_name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {part_name}" if rest else "")
    raise AssertionError


def price_text(amount: float) -> str:
    """Return an amount of money, of no named currency.

    Example:
        >>> price_text(12.345), price_text(0.00234), price_text(0)
        ('12.35', '0.0023', '0')
    """
    if 0 < amount < 1e-4:
        return "less than 0.0001"
    return "0" if not amount else f"{amount:,.2f}" if amount >= 1 else f"{amount:.2g}"


def age_text(seconds: float) -> str:
    """Return how long ago something was.

    Example:
        >>> age_text(30), age_text(7_300), age_text(10**7)
        ('now', '2 h ago', '115 d ago')
    """
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return "now"
