"""Measured numbers as people read them."""

import math

NBSP = "\u00a0"  # does not break a line
SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float) -> str:
    """Format a measured number to three significant figures, with thousands separators; infinity becomes its sign."""
    if not math.isfinite(value):
        return "∞" if value == math.inf else "not a number"
    if abs(value) >= 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value)))) if value else 2}f}"


def multiple(value: float) -> str:
    """Format a ratio: as ``number`` does, but with three decimals near 1, so that it can be seen on which side of 1 it lies."""
    return f"{value:.3f}" if 0.9 <= value < 1.1 else number(value)


def percent(share: float) -> str:
    """Return a share in per cent, with a decimal; with as many as it takes to tell it from 0 and 100%, and two digits below 1%."""
    if 1e-9 < abs(share) < 0.01:
        return f"{100 * share:.2g}%"
    digits = next((digits for digits in range(1, 7) if f"{100 * share:.{digits}f}" != "100." + digits * "0"), 1)
    return f"{100 * share:.{digits}f}".removesuffix(".0") + "%"


def change(share: float) -> str:
    """Return a relative change in per cent, without a sign where there is none."""
    return "0.0%" if abs(share) < 0.0005 else f"{100 * share:+.1f}%"


def counted(count: int, noun: str) -> str:
    """Return '1 window' or '20 windows'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Format a number of bytes in GiB, or in MiB below a tenth of a GiB, with a decimal below ten."""
    if count >= 2**30 / 10:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.{1 if count < 10 * 2**20 else 0}f} MiB"


def dtype_name(dtype) -> str:
    """Return the name of a ``torch.dtype`` without 'torch.'."""
    return str(dtype).removeprefix("torch.")


def commit(digits: str, dirty: bool) -> str:
    """Return the first ten digits of a commit, and whether the files differed from it."""
    return digits[:10] + (" with changes" if dirty else "")


def count(parameters: float) -> str:
    """Format a number of parameters to three significant figures, in thousands, millions or billions: '664 K', '135 M', '7.25 B'."""
    unit, size = next(((unit, size) for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)) if parameters >= size), ("", 1))
    return f"{number(parameters / size)}{NBSP}{unit}".rstrip(NBSP)
