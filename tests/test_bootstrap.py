import math
from types import SimpleNamespace

import numpy as np
import pytest

from lottery.analysis.frame import frame
from lottery.evaluation import bootstrap
from lottery.evaluation.bootstrap import common_draws, draws, interval, resampled
from lottery.evaluation.metrics import METRICS, scores, window_sums
from tests.factory import record_of


def test_all_scores_are_views_of_one_sum():
    found = SimpleNamespace(**scores(window_sums([10.0, 30.0], [1.0, 3.0], [5.0, 10.0], [50, 70], [12, 13], 10)))
    assert found.perplexity == pytest.approx(math.exp(40 / 20))
    assert found.first_window == pytest.approx(math.exp(1))
    assert found.word_perplexity == pytest.approx(math.exp(40 / 25))
    assert found.bits_per_byte == pytest.approx(40 / math.log(2) / 120)
    assert (found.kl, found.agreement) == (4 / 20, 15 / 20)


@pytest.mark.parametrize("bad", [math.inf, math.nan, 1e6])
def test_what_no_number_can_hold_is_infinite_and_no_crash(bad):
    found = SimpleNamespace(**scores(window_sums([bad, 1.0], [bad, 0.0], [0.0, 2.0], [5, 5], [1, 1], 2)))
    assert found.perplexity == found.word_perplexity == math.inf
    assert found.agreement == 0.5


def test_the_interval_covers_the_truth_as_often_as_it_says(few_draws):
    """Windows of which each is like its neighbour, few and many: of 400 intervals of their mean about 95% hold the true one."""
    random = np.random.default_rng(1)
    for windows, alike in [(20, 0.0), (20, 0.3), (60, 0.3), (150, 0.2)]:
        held = 0
        for trial in range(400):
            noise = random.standard_normal(windows + 20)
            for i in range(1, len(noise)):
                noise[i] = alike * noise[i - 1] + math.sqrt(1 - alike**2) * noise[i]
            low, high = interval(resampled(3.0 + noise[20:], draws(f"model {trial}", windows)) / windows, windows)
            held += low <= 3.0 <= high
        assert 0.91 <= held / 400 <= 0.985, (windows, alike, held / 400)


def test_draws_are_the_same_for_a_model_and_others_for_another():
    assert (draws("a", 30) == draws("a", 30)).all()
    assert not (draws("a", 30) == draws("b", 30)).all()
    assert draws("a", 30).shape == (bootstrap.N_RESAMPLES, 30)
    assert (draws("a", 30).sum(1) == 30).all()


def test_the_interval_of_a_mean_over_models_of_one_text_covers_the_truth(few_draws):
    """What is hard in the text is hard for all five. Draws of their own, a model each, would hold the true mean in 70 of 100 texts."""
    random, counts, held = np.random.default_rng(3), [40, 40, 40, 36, 48], 0
    for _ in range(300):
        hard = random.standard_normal(720)
        mean = 0.0
        for count, times in zip(counts, common_draws(counts), strict=True):
            noise = hard.reshape(count, -1).mean(1) * math.sqrt(720 / count) + 0.3 * random.standard_normal(count)
            mean = mean + resampled(3.0 + noise, times) / count / len(counts)
        low, high = interval(mean, min(counts))
        held += low <= 3.0 <= high
    assert 0.91 <= held / 300 <= 0.985, held / 300


def test_an_infinite_window_is_infinite_only_where_it_is_drawn():
    times = np.array([[2, 0], [1, 1]])
    assert resampled([1.0, math.nan], times).tolist() == [2.0, math.inf]
    assert interval(np.array([1.0] * 90 + [math.inf] * 10), 40) == (1.0, math.inf)


def test_each_metric_has_its_interval_and_a_metric_of_one_window_has_none():
    nll = list(np.random.default_rng(0).normal(21.0, 1.0, 40))
    record = record_of("m", "dense", 0.0, windows=40)
    result = record.result.model_copy(update={"window_nll": nll, "metric_versions": {}})
    row = frame([record.model_copy(update={"result": type(result).model_validate(result.model_dump())})]).iloc[0]
    for name in set(METRICS) - {"first_window"}:
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"], name
    assert row["word_perplexity_low"] < row["word_perplexity_high"]
    assert math.isnan(row["first_window_low"])
    assert row["first_window"] == pytest.approx(math.exp(nll[0] / 7))
