import math

from lottery.analysis import sizes
from lottery.analysis.frame import frame
from lottery.report.sections import size
from tests.factory import KB, stored, sweep_of


def data(*sweeps):
    return frame([stored(record) for sweep in sweeps for record in sweep])


SMALL = sweep_of("small", [10, 12, 40, 90], bits=[1.0, 1.1, 2.0, 4.0], parameters=1000, windows=20)
LARGE = sweep_of("large", [10, 12, 40, 90], bits=[0.8, 0.9, 1.5, 3.0], parameters=1600, windows=20)  # 50% of half of it: 1,200 are left


def test_bytes_in_a_file_and_the_front():
    found = sizes.sizes(data(SMALL, LARGE))
    left = {(row.model, row.sparsity): row.stored for row in found.itertuples()}
    assert (left["small", 0], left["small", 0.5], left["large", 0.9]) == (1000 * KB, 750 * KB, 880 * KB)
    front = [(row.model, row.sparsity) for row in found[found["front"]].itertuples()]
    assert front == [("small", 0.9), ("small", 0.7), ("small", 0.5), ("small", 0), ("large", 0.5), ("large", 0)]


def test_a_variant_as_good_but_larger_is_not_on_the_front():
    twin = sweep_of("twin", [10], bits=[1.0], parameters=2000)
    assert not sizes.sizes(data(SMALL, twin)).set_index(["model", "sparsity"]).loc[("twin", 0), "front"]


def best(*sweeps):
    return sizes.best_at_sizes(data(*sweeps), [record for sweep in sweeps for record in sweep])


def test_a_ticket_beats_a_dense_model_only_where_it_is_as_small_and_better():
    assert [at.beaten for at in best(SMALL, LARGE)] == [[]] * 6

    def beaten(**of_bad):
        found = best(SMALL, LARGE, sweep_of("bad", [10], parameters=1300, **of_bad))
        return {(at.model, at.variant, at.stored): at.beaten for at in found if at.beaten}

    assert beaten(bits=[1.4], windows=20) == {("large", "magnitude\u00a050%", 1200 * KB): ["bad"]}
    assert beaten(bits=[1.4], windows=19) == {}, "too few windows tell nothing"
    here_and_there = [0.4 if i < 4 else 1.1 for i in range(20)]
    assert beaten(bits=[0.96], windows=20, window_nll=here_and_there) == {}, "another text might have it the other way round"


def test_a_model_that_is_the_smaller_one_already_proves_nothing_by_pruning():
    """A real one, a fifth of the other's size and better at the text from the start, was said to show that pruning pays."""
    worse = sweep_of("worse", [10], bits=[1.4], parameters=5000)
    assert [at.variant for at in best(SMALL, worse)][-1] == "dense"
    assert not any(at.beaten for at in best(SMALL, worse))


def test_broken_texts_are_best_at_nothing():
    verdicts = ["coherent", "coherent", "degraded", "broken"]
    found = best(sweep_of("a", [1, 2, 3, 4], verdicts=verdicts), LARGE)
    assert [(at.variant, at.stored) for at in found if at.model == "a"] == [("magnitude\u00a050%", 750 * KB), ("dense", 1000 * KB)]


def test_with_one_dense_model_or_nothing_finite_nothing_is_best():
    assert best(SMALL) == []
    infinite = sweep_of("over", [math.inf] * 4, bits=[math.inf] * 4)
    assert best(infinite, infinite) == []
    assert size.picture(data(infinite)) is None


def test_the_picture_says_in_words_what_it_shows():
    picture = size.picture(data(SMALL, LARGE))
    assert "small: dense 1.0 MiB 1.00, magnitude\u00a050% 0.7 MiB 1.10" in picture.alt
    assert picture.svg.count("small") >= 1
