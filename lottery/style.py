"""The one style of all pictures: vector, readable without colour, honest logarithmic axes, names at what they name."""

import math

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

MARKERS = "osD^vP*XhpH8"
BOLD_TEXT = {"fontweight": "bold", "annotation_clip": False}

matplotlib.rcParams["svg.hashsalt"] = "lottery"  # the same figure is the same file


def new_figure(width: float = 8, height: float = 4.6) -> Figure:
    """An empty figure in inches; it belongs to no window, so that nothing needs to be closed."""
    sns.set_theme(style="whitegrid", rc={"axes.edgecolor": ".6", "grid.color": ".92", "font.size": 10})
    return Figure(figsize=(width, height), layout="constrained")


def colours(count: int) -> list:
    """Colours that people who are colour-blind can tell apart, dark enough on white for lines (3 to 1, WCAG 2.2); beyond ten they
    repeat, and the markers must do."""
    return [darkened(colour, 3) for colour in sns.color_palette("colorblind", max(count, 1))]


def ink(colour) -> tuple:
    """A colour for text: that of its line, dark enough on white to be read (4.5 to 1, WCAG 2.2)."""
    return darkened(colour, 4.5)


def darkened(colour, contrast: float) -> tuple:
    """A colour, or the first darker shade of it whose contrast to white is high enough."""
    red, green, blue = to_rgb(colour)
    while 1.05 / (luminance((red, green, blue)) + 0.05) < contrast:
        red, green, blue = 0.98 * red, 0.98 * green, 0.98 * blue
    return red, green, blue


def luminance(colour) -> float:
    """The relative luminance of a colour, from 0 to 1 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def logarithmic(axis, decades_only: bool = False) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 of each decade, written out."""
    axis.set_major_locator(LogLocator(subs=(1,) if decades_only else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def label_ends(axes: Axes, ends: list[tuple]) -> None:
    """Names at the right end of each line, pushed apart so that none covers another: ``(y, x, name, colour)`` each."""
    figure_height = axes.figure.get_size_inches()[1] * 72 * 0.8
    low, high = (math.log(limit) for limit in axes.get_ylim())
    least = 13 / figure_height  # points of a line of text, as a share of the axis
    placed = -1.0
    for y, x, label, colour in sorted(ends, key=lambda end: end[0]):
        share = (math.log(y) - low) / (high - low)
        placed = max(share, placed + least)
        shift = (placed - share) * figure_height
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(10, shift), va="center", color=ink(colour), **BOLD_TEXT)
