"""Numbers with their units, as people read them."""

from __future__ import annotations

import math


def bytes_as_text(n_bytes: float) -> str:
    """Return a size in kB, MB or GB (powers of 1,000).

    Examples
    --------
    >>> bytes_as_text(28_300_000), bytes_as_text(1_234_500_000_000), bytes_as_text(512)
    ('28.3 MB', '1,234.5 GB', '0.5 kB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1e3:,.1f} kB"


def time_as_text(seconds: float) -> str:
    """Return a duration by its two largest units.

    Examples
    --------
    >>> time_as_text(0.2), time_as_text(80), time_as_text(7_320), time_as_text(200_000)
    ('0.2 s', '1 min 20 s', '2 h 2 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    first = next(i for i, (_, size) in enumerate(units) if whole >= size)
    parts = []
    for unit, size in units[first : first + 2]:
        count, whole = divmod(whole, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts)


def share_as_text(share: float) -> str:
    """Return a share in percent, with three digits where it is small.

    Examples
    --------
    >>> share_as_text(0.98), share_as_text(0.00123), share_as_text(0.0), share_as_text(1.0)
    ('98.0 %', '0.123 %', '0 %', '100 %')
    """
    percent = 100 * share
    if percent in {0.0, 100.0} or math.isnan(percent):
        return f"{percent:.0f} %"
    return f"{percent:.1f} %" if percent >= 10 else f"{percent:.3g} %"
