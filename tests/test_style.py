import pytest
import seaborn as sns

from lottery.analysis.frame import frame
from lottery.report import style
from lottery.report.figures import methods_compared
from tests.factory import record_of


@pytest.mark.parametrize("count", [1, 5, 10])
def test_lines_and_names_are_dark_enough_on_white(count):
    for colour in style.colours(count):
        assert 1.05 / (style.luminance(colour) + 0.05) >= 3
        assert 1.05 / (style.luminance(style.ink(colour)) + 0.05) >= 4.5


def test_a_colour_that_is_dark_enough_stays_as_it_is():
    blue = sns.color_palette("colorblind")[0]
    assert style.darkened(blue, 4.5) == blue
    assert style.luminance("white") == pytest.approx(1)
    assert style.luminance("black") == 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.95, 2.4, ["1", "1.2", "1.5", "2"]),
        (0.9, 18, ["1", "2", "5", "10"]),
        (15, 7e8, ["100", "1,000", "10,000", "10⁵", "10⁶", "10⁷", "10⁸"]),
        (1e-3, 1e20, ["0.001", "10", "10⁵", "10⁹", "10¹³", "10¹⁷"]),
        (90_000, 2_100_000, ["10⁵", "2×10⁵", "5×10⁵", "10⁶", "2×10⁶"]),
    ],
)
def test_a_logarithmic_axis_has_seven_labels_at_most_and_powers_of_ten(low, high, expected):
    """Perplexities from 20 to 500,000,000 once had 24 labels."""
    axes = style.new_figure().subplots()
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    style.logarithmic(axes.yaxis)
    axes.figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == expected
    assert len(labels) <= style.LABELS


def test_the_axis_of_the_methods_has_what_was_named_and_tens_wherever_else_something_was_measured():
    """A bisection measures far from the sparsities that a profile names, and there the levels are passed."""

    def labels(models: str) -> list[str]:
        steps = (("dense", 0.0), *((way, s) for way in ("magnitude", "wanda") for s in (0.225, 0.5, 0.6, 0.72)))
        figure = methods_compared(frame([record_of(model, way, s, bits_per_byte=1 + s) for model in models for way, s in steps])).figure
        return [label.get_text() for label in figure.axes[0].get_xticklabels()]

    assert labels("a") == ["22.5%", "40%", "50%", "60%", "72%"]
    assert labels("ab") == ["22.5%", "50%", "72%"]
