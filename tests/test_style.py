import pytest
import seaborn as sns

from lottery import style


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
