"""Durations as people and clusters write them, 90s, 90min, 8h, 2d, 12:00:00, 1-12:00:00, and as shown."""

import re

from finetune.errors import UserError, shown

UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
LONGEST = 366 * 86400  # seconds; more is a slip
_NUMBER = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(s|min|h|d)")
_CLOCK = re.compile(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)")


def seconds(text: str) -> int:
    """Seconds of a duration, at least 1. Raises ``UserError``.

    >>> [seconds(text) for text in ("90s", "1.5h", "12:00:00", "1-12:00:00")]
    [90, 5400, 43200, 129600]
    """
    length = 0.0
    if number := _NUMBER.fullmatch(text):
        length = float(number[1]) * UNITS[number[2]]
    elif clock := _CLOCK.fullmatch(text):
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        length = 86400 * days + 3600 * hours + 60 * minutes + rest
    if not 1 <= length <= LONGEST:
        raise UserError(f"a duration is written 90s, 90min, 8h, 2d or 1-12:00:00, not {shown(text)}")
    return int(length)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
