"""What is said of speed and memory."""

import math

import pytest

from lottery.analysis.frame import frame
from lottery.report.sections import speed
from tests.factory import record_of, timed


def data(*sweeps):
    return frame([record for sweep in sweeps for record in sweep])


def test_speeds_are_compared_with_the_dense_model_beside_them():
    """However the machine's pace changes between trials."""
    slower = record_of("a", "magnitude", 0.9, speed=51.0, dense_speed=50.0)
    found = data([*timed("a", 0.97), slower])
    assert math.isnan(found["speed_ratio"][0])
    assert list(found["speed_ratio"][1:]) == pytest.approx([0.97, 1.02])
    # Three repeats, 1% around the median, of both: the slowest over the fastest, the fastest over the slowest.
    assert (found["speed_ratio_low"][1], found["speed_ratio_high"][1]) == pytest.approx((0.97 * 0.99 / 1.01, 0.97 * 1.01 / 0.99))
    said = speed.what_zeros_save(found)
    assert "as multiples of those of the dense model timed right after each: a 0.970 to 1.02. No variant of a is shown to" in said
    assert "memory differs by at most a factor of 1.00 (a)." in said


def test_ratios_on_one_side_are_no_chance_once_there_are_many():
    found = data([*timed("a", 0.9, 0.95), *timed("b", *[1.1] * 6), *timed("c", 1.2), *timed("d", 0.9, 1.1)])
    said = speed.what_zeros_save(found)
    assert "a 0.900 to 0.950; b 1.10; c 1.20; d 0.900 to 1.10." in said
    assert "All 6 ratios of b lie above 1, which chance alone does in 3.1% of cases." in said
    assert "No variant of a, c, d is shown to be faster or slower." in said


def test_what_was_not_timed_is_not_told():
    records = timed("a", 1.0)
    for record in records:
        record.result.speed = record.result.dense_speed = None
    assert "Tokens per second" not in speed.what_zeros_save(data(records))


def test_several_devices_do_not_compare():
    mixed = data([record_of("a", "dense", 0), record_of("a", "magnitude", 0.5, device="another")])
    assert speed.what_does_not_compare(mixed).startswith("**Not one measurement.** The variants of a were measured on different devices")
    assert speed.what_does_not_compare(data(timed("a", 1.0))) == ""


def test_the_share_of_the_bandwidth_is_that_of_the_bytes_read():
    # 100 tokens a second, 4,000 bytes each, of 10⁹ bytes a second.
    assert "dense: a 0%." in speed.what_limits_decoding(data([record_of("a", "dense", 0)]))
    assert "dense: a 40%." in speed.what_limits_decoding(data([record_of("a", "dense", 0, parameters=10**6)]))


def test_without_speeds_it_says_what_to_expect():
    assert speed.what_zeros_save(data([])).startswith("Zeros in dense tensors save neither")
