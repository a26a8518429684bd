"""Token frequencies alone: what they score, and that nothing below them is called a success."""

import numpy as np
import pytest
from scipy.special import entr

from lottery.analysis.allocations import gains
from lottery.analysis.findings import least_by_model, method_rankings
from lottery.analysis.frame import frame
from lottery.evaluation.unigram import unigram_nll
from lottery.report.figures import methods_compared
from lottery.report.sentences import sentences
from lottery.report.tables import by_method, by_sparsity
from tests.factory import record_of, ways


def test_each_token_is_scored_by_the_other_windows():
    tokens = np.array([[9, 0, 0, 1, 3], [0, 0, 0, 1, 2]])
    # Of the second window three tokens are 0, one is 1, one is 2: N = 5, T = 3; seven kinds are unseen and share 3 of 8.
    first = -np.log(np.array([3, 3, 1, 3 / 7]) / 8).sum()
    assert unigram_nll(tokens, 10)[0] == pytest.approx(first), "the first token is context only"


def test_probabilities_sum_to_one():
    for others in ([0, 0, 1], [0, 1, 2], [2, 2, 2]):
        each = [unigram_nll(np.array([[0, kind, kind], [*others]]), 4)[0] / 2 for kind in range(4)]
        assert np.exp(-np.array(each)).sum() == pytest.approx(1)


def test_of_much_text_it_is_the_entropy_and_of_a_single_window_the_size_of_the_vocabulary():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    tokens = np.random.default_rng(0).choice(4, size=(50, 1001), p=p)
    assert unigram_nll(tokens, 4).mean() / 1000 == pytest.approx(entr(p).sum(), rel=0.01)
    assert unigram_nll(tokens[:1], 4) == pytest.approx(1000 * np.log(4))


def with_frequencies(records, bits):
    """The records with a dense one that knows what token frequencies score, in bits per byte."""
    for record in records:
        if record.request.method == "dense":
            record.result.window_unigram = [bits * np.log(2) * one for one in record.result.window_bytes]
    return records


def test_what_is_worse_than_token_frequencies_is_said_to_be():
    records = with_frequencies(ways("a", wanda=(1.2, 5), magnitude=(2, 9)), 4.0)
    data = frame(records)
    half, more = method_rankings(data, records)
    assert (half.blind, more.blind) == (False, True)
    said = "At 70% there is nothing to rank: even wanda predicts worse than token frequencies alone."
    assert sentences("methods", found=[more]).startswith(said)
    assert "token frequencies" not in sentences("methods", found=[half])
    picture = methods_compared(data)
    assert "Dashed: token frequencies alone." in picture.caption
    assert all(picture.svg.count(f"<!-- {name} -->") == 1 for name in ("5% more", "twice", "token frequencies"))


def test_tables_mark_what_is_worse_than_token_frequencies():
    records = with_frequencies(ways("a", wanda=(1.2, 5), magnitude=(2, 9)), 0.0)
    records[0].result.window_unigram = [np.log(30) * records[0].result.scored_tokens]
    data = frame(records)
    shown = by_sparsity(data, least_by_model(data, records))
    assert "Italic: worse than token frequencies alone, 30.0." in shown
    assert "*50.0*" in shown
    assert "**50.0**" not in shown
    assert "**12.0**" in shown
    several = [*records, *ways("b", wanda=(1, 1), magnitude=(2, 2))]
    both = frame(several)
    assert "*50.0*" in by_method(both, 0.7, least_by_model(both, several))
    assert "**10.0**" in by_method(both, 0.7, least_by_model(both, several)), "of b nothing is known"
    assert "Italic" not in by_sparsity(frame(ways("b", wanda=(1, 1))), set())


def test_a_gain_among_the_useless_is_none():
    def made(allocation, bits):
        return record_of("a", "wanda", 0.9, bits_per_byte=bits, allocation=allocation, windows=20)

    records = [record_of("a", "dense", 0.0, windows=20), made("uniform", 8.0), made("owl", 6.0)]
    assert gains(records)[0].fewer == {"wanda": [0.9]}
    (gain,) = gains(with_frequencies(records, 4.0))
    assert (gain.fewer, gain.more, gain.undecided, gain.blind) == ({}, {}, 0, 1)
    assert "In 1 both predict worse than token frequencies alone" in sentences("allocations", gain=gain)
    assert gains(with_frequencies(records, 7.0))[0].fewer == {"wanda": [0.9]}, "it is better than they are"
