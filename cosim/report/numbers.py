"""Numbers as people read them: prefixes, percentages, intervals."""

from collections.abc import Sequence

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"))
_SMALLEST = ((1e-9, "n"), (1e-12, "p"))


def scaled(value: float | None, unit: str = "", *, digits: int = 3) -> str:
    """Return a number with an SI prefix; `not measured` for None.

    Example:
        >>> scaled(20_238_336_000, "MAC")
        '20.2 GMAC'
        >>> scaled(0.00125, "J")
        '1.25 mJ'
        >>> scaled(None)
        'not measured'

    """
    if value is None:
        return "not measured"
    for size, prefix in (*_PREFIXES, *_SMALLEST):
        if abs(value) >= size:
            return f"{value / size:.{digits}g} {prefix}{unit}".strip()
    return f"{value:.{digits}g} {unit}".strip()


def percent(value: float | None) -> str:
    """Return a fraction as a percentage; `not measured` for None."""
    return "not measured" if value is None else f"{100 * value:.2f} %"


def shown(value: float | None, text: str = ".2f") -> str:
    """Return a number in a format, `-` for None."""
    return "-" if value is None else format(value, text)


def interval(found: Sequence[float] | None) -> str:
    """Return `low-high`, `-` for None; with a coverage below 95 % that is said."""
    if found is None:
        return "-"
    low, high, coverage = found
    weak = "" if coverage >= 0.95 else f" ({coverage:.0%})"
    return f"{low:.2f}-{high:.2f}{weak}"
