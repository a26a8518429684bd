import math

import pytest

from lottery.params import validated
from lottery.records import read_record, requests, write_record
from lottery.ticket_score import crossing, next_sparsity, told_apart, with_bisections
from tests.conftest import TOY
from tests.factory import record_of


def points(bits, windows=40, noise=0.0, model="m", sparsities=(0.0, 0.5, 0.7, 0.9)):
    """A sweep with the given bits per byte; windows differ by ``noise``, all variants alike."""
    found = []
    for sparsity, level in zip(sparsities, bits, strict=True):
        nll = [level * (1 + noise * ((7 * i) % 5 - 2)) for i in range(windows)]
        found.append(record_of(model, "magnitude" if sparsity else "dense", sparsity, bits_per_byte=level, windows=windows, window_nll=nll))
    return found


def test_the_crossing_is_where_a_straight_line_in_the_logarithm_passes():
    found = crossing(points([1, 1, 4, 9]), 2.0)
    assert found.at == pytest.approx(0.6)  # half way from 0.5 to 0.7: log 2 is half of log 4
    assert (found.after, found.before) == (0.5, 0.7)
    assert crossing(points([1, 1, 4, 9]), 1.05).at == pytest.approx(0.5 + 0.2 * math.log(1.05) / math.log(4))
    assert crossing(points([1, 2, 4, 9]), 2.0).at == pytest.approx(0.5), "exactly at a measured one"


def test_the_first_crossing_counts_even_if_it_recovers():
    assert crossing(points([1, 3, 1, 9]), 2.0).before == 0.5


def test_what_never_passes_is_beyond_what_was_measured():
    found = crossing(points([1, 1.01, 1.02, 1.03]), 1.05)
    assert math.isinf(found.at)
    assert (found.after, found.before) == (0.9, math.inf)


def test_a_line_to_infinity_passes_every_level_where_it_begins():
    found = crossing(points([1, 1.01, math.inf, math.inf]), 2.0)
    assert (found.at, found.low, found.high) == (0.5, 0.5, 0.5)
    assert (found.after, found.before) == (0.5, 0.7), "the bisection looks between these"


def test_of_an_infinite_dense_model_nothing_is_a_multiple():
    assert crossing(points([math.inf] * 4), 2.0) is None


def test_the_interval_is_paired_so_what_is_hard_for_all_variants_cancels():
    steady = crossing(points([1, 1, 4, 9], noise=0.2), 2.0)
    assert steady.low == pytest.approx(0.6)
    assert steady.high == pytest.approx(0.6)


def test_too_few_windows_give_no_interval():
    found = crossing(points([1, 1, 4, 9], windows=4), 2.0)
    assert not found.has_interval
    assert math.isnan(found.low)
    assert told_apart(found, found) is None


def test_models_are_told_apart_only_where_their_difference_is_clear():
    def noisy(level, model):
        dense = record_of(model, "dense", 0.0, windows=40, window_nll=[1.0] * 40)
        nll = [level + 0.5 * ((7 * i) % 5 - 2) for i in range(40)]
        return crossing([dense, record_of(model, "magnitude", 0.5, windows=40, window_nll=nll)], 2.0)

    assert told_apart(noisy(2.5, "a"), noisy(6, "b")) is True
    assert told_apart(noisy(2.5, "a"), noisy(2.6, "b")) is False
    never = crossing(points([1, 1, 1, 1]), 2.0)
    assert told_apart(never, never) is False


def test_without_a_dense_record_there_is_no_score():
    assert crossing(points([1, 1, 4, 9])[1:], 2.0) is None
    assert crossing(points([1], sparsities=[0.0]), 2.0) is None


def test_a_bisection_takes_the_middle_of_the_widest_gap_and_ends():
    assert next_sparsity(points([1, 1.2, 4, 9])) == 0.25  # 5% lie between dense and 50%, twice between 50% and 70%
    assert next_sparsity(points([1, 1.01, 4, 9])) == 0.6
    assert next_sparsity(points([1, 1.01, 4, 9], sparsities=[0, 0.69, 0.71, 0.9])) is None
    assert next_sparsity(points([1, 1.01, 1.02, 1.03])) is None


def test_bisections_are_asked_for_one_by_one_and_go_on_from_what_is_recorded(project):
    profile = validated({**TOY, "sparsities": [0.5, 0.7, 0.9], "cliff": True})
    named = requests(profile, "c", "t")

    def bits(sparsity):
        return 1 + 20 * sparsity**6

    def measure(request):
        record = record_of("m", request.method, request.sparsity, windows=40, window_nll=[bits(request.sparsity)] * 40)
        write_record(project, record.model_copy(update={"request": request}))

    def wanted():
        return with_bisections(named, lambda request: read_record(project, request))

    assert wanted() == named, "before the named ones are recorded nothing is added"
    for request in named:
        measure(request)
    steps = 0
    while missing := [request for request in wanted() if read_record(project, request) is None]:
        assert len(missing) == 1
        measure(missing[0])
        steps += 1
    assert 5 <= steps <= 12
    records = sorted((read_record(project, request) for request in wanted()), key=lambda record: record.request.sparsity)
    for level in (1.05, 2.0):
        found = crossing(records, level)
        assert found.before - found.after <= 0.02 + 1e-9
        assert bits(found.at) == pytest.approx(level, rel=0.01)
