import math

import numpy as np
import pytest
import torch

from lottery import loading
from lottery.corpus import Windows, corpus, windows
from lottery.params import validated
from lottery.perplexity import negative_log_likelihood, score
from tests.conftest import TOY
from tests.test_checkpoints import of

NAMES = ["mistral-7b", "phi-2"]


def loaded(name):
    checkpoint = of(model=name, checkpoints={name: f"stand-in:{name}"})
    plan = loading.plan(validated({**TOY, "device": "cpu"}), 1)
    return loading.load(checkpoint, plan), loading.tokenizer(checkpoint)


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_a_plain_loop_over_the_models_own_loss(name):
    model, tokens = loaded(name)
    found = windows(tokens, corpus("stories"), 300, 5)
    nll = negative_log_likelihood(model, found.tokens, batch_size=2)
    losses = []
    for row in torch.from_numpy(found.tokens):
        with torch.no_grad():
            losses.append(model(input_ids=row[None], labels=row[None]).loss.item())
    expected = math.exp(sum(losses) / len(losses))
    result = score(nll, found)
    assert result.perplexity == pytest.approx(expected, rel=1e-5)
    assert result.first_window_perplexity == pytest.approx(math.exp(losses[0]), rel=1e-5)
    assert result.scored_tokens == 5 * 299


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_size_changes_nothing(name):
    model, tokens = loaded(name)
    found = windows(tokens, corpus("stories"), 128, 7)
    one = negative_log_likelihood(model, found.tokens, batch_size=1)
    for batch_size in (2, 3, 7, 50):
        assert torch.allclose(negative_log_likelihood(model, found.tokens, batch_size), one, rtol=1e-5, atol=0)


def test_bits_per_byte_and_perplexity_are_two_views_of_one_sum():
    result = score(torch.tensor([10.0, 30.0]), Windows(np.zeros((2, 11), dtype=np.int64), np.array([50, 70])))
    assert result.perplexity == pytest.approx(math.exp(40 / 20))
    assert result.bits_per_byte == pytest.approx(40 / math.log(2) / 120)
    assert result.first_window_perplexity == pytest.approx(math.exp(1))


@pytest.mark.parametrize("bad", [math.inf, math.nan, 1e6])
def test_what_no_number_can_hold_is_infinite_and_no_crash(bad):
    result = score(torch.tensor([bad, 1.0], dtype=torch.float64), Windows(np.zeros((2, 3), dtype=np.int64), np.array([5, 5])))
    assert result.perplexity == math.inf
    assert result.window_nll[1] == 1.0
