"""Figures as people read them."""

import datetime
import math

# So that a figure and its unit stay in one line.
_SPACE = "\u00a0"
_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns"))


def digits(value, count=3):
    """So many significant digits, without an exponent: 4.81, 12,300."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    places = count - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return f"{rounded:,.{max(0, places)}f}"


def duration(nanos):
    for scale, unit in _TIMES:
        if abs(nanos) >= scale:
            return f"{digits(nanos / scale)}{_SPACE}{unit}"
    return f"{digits(nanos)}{_SPACE}ns"


def span(q1, q3):
    """Between two quartiles, in the unit of the larger: "4.7 to 4.9 ns"."""
    for scale, unit in _TIMES:
        if abs(q3) >= scale or unit == "ns":
            return (f"{digits(q1 / scale)} to {digits(q3 / scale)}"
                    f"{_SPACE}{unit}")
    raise AssertionError("the last unit fits everything")


def ratio(value):
    return f"{digits(value)}{_SPACE}×"


def size(count):
    """64 B, 4 KiB."""
    for scale, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= scale and count % scale == 0:
            return f"{count // scale}{_SPACE}{unit}"
    return f"{count}{_SPACE}B"


def quantity(value, unit):
    """A cost: bytes and times by their size, anything else as it is."""
    if not isinstance(value, (int, float)):
        return f"{value} {unit}".strip()
    if unit == "ns":
        return duration(value)
    if unit == "bytes":
        for scale, name in ((1 << 30, "GiB"), (1 << 20, "MiB"),
                            (1 << 10, "KiB")):
            if value >= scale:
                return f"{digits(value / scale)}{_SPACE}{name}"
    shown = f"{value:,}" if isinstance(value, int) else digits(value)
    return f"{shown}{_SPACE}{unit}" if unit else shown


def moment(text):
    """An ISO date, also with the Z that Python 3.10 does not know; None if it
    is none. Without a zone it is taken as UTC."""
    try:
        when = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, AttributeError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=datetime.timezone.utc)
