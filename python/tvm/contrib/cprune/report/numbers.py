# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them."""

MISSING = "–"


def milliseconds(value: float | None) -> str:
    """Return a latency with three significant digits, in ms or µs; the input is in ms."""
    if value is None:
        return MISSING
    return f"{_digits(value)} ms" if value >= 0.1 else f"{_digits(value * 1e3)} µs"


def accuracy(value: float | None) -> str:
    """Return an accuracy in [0, 1] with four decimals."""
    return MISSING if value is None else f"{value:.4f}"


def accuracies(interval: tuple[float, float]) -> str:
    """Return the accuracies in [0, 1] that an evaluation leaves possible, with four decimals."""
    low, high = (accuracy(value) for value in interval)
    return low if low == high else f"between {low} and {high}"


def count(value: int | None) -> str:
    """Return a count with three significant digits and a prefix, such as 48.4 M."""
    if value is None:
        return MISSING
    for size, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return _digits(value / size) + prefix
    return str(value)


def change(before: float, after: float) -> str:
    """Return the relative change in percent, with its sign."""
    if after == before:
        return "0 %"
    return f"{(after / before - 1) * 100:+.0f} %".replace("-", "−")


def duration(seconds: float) -> str:
    """Return a duration in hours, minutes or seconds."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _digits(value: float) -> str:
    """Return a number with three significant digits, but all digits before the point."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}" if value >= 1 else f"{value:.3f}"
