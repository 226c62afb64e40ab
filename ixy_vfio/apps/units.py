"""Numbers for people."""

_PREFIXES = ("", "k", "M", "G", "T")


def quantity(value: float, unit: str = "") -> str:
    """A number of at least 0 in three digits, with the prefix of its size."""
    index = 0
    while value >= 999.5 and index < len(_PREFIXES) - 1:
        value, index = value / 1000, index + 1
    digits = f"{value:.3g}" if value >= 0.01 else "<0.01" if value else "0"
    return f"{digits} {_PREFIXES[index]}{unit}".rstrip()
