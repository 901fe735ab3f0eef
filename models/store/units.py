"""Sizes and durations for people, and numbers for JSON results."""


def duration(seconds: float) -> str:
    """Return a duration such as "12 s", "3 min", "5 h" or "8 days"; a unit is used from two of it on."""
    for length, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size(count: int) -> str:
    """Return a number of bytes as text such as "812 B", "3.4 MB" or "41.0 GB"."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def rounded(value: float) -> float:
    """Return a number with four significant digits, as JSON results have it."""
    return float(f"{value:.4g}")
