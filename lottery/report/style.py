"""The one style of all pictures: vector, readable without colour, honest logarithmic axes, names at what they name."""

import math

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lottery.common.format import SUPERSCRIPT

MARKERS = "osD^vP*XhpH8"
BOLD_TEXT = {"fontweight": "bold", "annotation_clip": False}

matplotlib.rcParams["svg.hashsalt"] = "lottery"  # the same figure is the same file


def new_figure(width: float = 8, height: float = 4.6) -> Figure:
    """Return an empty figure, its size in inches; it belongs to no window, so that nothing needs to be closed."""
    sns.set_theme(style="whitegrid", rc={"axes.edgecolor": ".6", "grid.color": ".92", "font.size": 10})
    return Figure(figsize=(width, height), layout="constrained")


def colours(count: int) -> list:
    """Return colours that colour-blind people can tell apart, dark enough on white for lines (3 to 1, WCAG 2.2).

    Beyond ten they repeat, and the markers must do.
    """
    return [darkened(colour, 3) for colour in sns.color_palette("colorblind", max(count, 1))]


def ink(colour) -> tuple:
    """Return a colour for text: that of its line, dark enough on white to be read (4.5 to 1, WCAG 2.2)."""
    return darkened(colour, 4.5)


def darkened(colour, contrast: float) -> tuple:
    """Return a colour, or the first darker shade of it whose contrast to white is high enough."""
    red, green, blue = to_rgb(colour)
    while 1.05 / (luminance((red, green, blue)) + 0.05) < contrast:
        red, green, blue = 0.98 * red, 0.98 * green, 0.98 * blue
    return red, green, blue


def luminance(colour) -> float:
    """Return the relative luminance of a colour, from 0 to 1 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


LABELS = 7  # on an axis, at most
_STEPS = [(1, 1.2, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)]  # within a decade, from the finest


def logarithmic(axis) -> None:
    """Set the ticks of a logarithmic axis whose limits are set.

    It gets as many within each decade as there is room for, else powers of ten, and every second or third of these where they are many.
    There are at most ``LABELS``; from 10⁵ on they are written as powers.
    """
    low, high = sorted(getattr(axis.axes, f"get_{axis.axis_name}lim")())
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [[m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high] for steps in _STEPS]
    few = [ticks for ticks in choices if len(ticks) <= LABELS]
    axis.set_major_locator(FixedLocator(few[0] if few else choices[-1][:: math.ceil(len(choices[-1]) / LABELS)]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _written(value)))
    axis.set_minor_locator(NullLocator())


def _written(value: float) -> str:
    if value < 1e5:
        return f"{value:,.10g}"
    times, exponent = f"{value:e}".split("e")
    power = f"10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return power if float(times) == 1 else f"{float(times):g}×{power}"


def name_level(axes: Axes, level: float, name: str) -> None:
    """Write what a horizontal line stands for just above its left end, where the line can be seen."""
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (4, 3)}
    axes.annotate(name, (0, level), **place, annotation_clip=True, fontsize=8, color=".35")


def label_ends(axes: Axes, ends: list[tuple]) -> None:
    """Write names at the right end of each line, pushed apart so that none covers another: ``(y, x, name, colour)`` each."""
    figure_height = axes.figure.get_size_inches()[1] * 72 * 0.8
    low, high = (math.log(limit) for limit in axes.get_ylim())
    least = 13 / figure_height  # points of a line of text, as a share of the axis
    placed = -1.0
    for y, x, label, colour in sorted(ends, key=lambda end: end[0]):
        share = (math.log(y) - low) / (high - low)
        placed = max(share, placed + least)
        shift = (placed - share) * figure_height
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(10, shift), va="center", color=ink(colour), **BOLD_TEXT)
