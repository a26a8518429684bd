"""L-ADMM and ALPS against the published equations, written out plainly in float64, and against what must hold of any such update."""

import numpy as np
import pytest
import torch

from lottery.common.errors import ImpossibleTrialError, LotteryError
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods import alps
from lottery.pruning.methods.admm import admm_
from lottery.pruning.methods.alps import alps_
from lottery.pruning.methods.sparsegpt import sparsegpt_
from lottery.pruning.pattern import Pattern
from tests.test_sparsegpt import correlated, fed

PATTERNS = [Pattern(2, 4), Pattern(1, 4), Pattern(4, 8)]


def largest(scores: np.ndarray, kept: int) -> np.ndarray:
    """Where the largest of each row are."""
    mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(-np.abs(scores), axis=-1, kind="stable")[..., :kept], True, axis=-1)
    return mask


def by_pattern(scores: np.ndarray, pattern: Pattern) -> np.ndarray:
    """The same of the columns of Wᵀ [in, out], in groups of neighbours."""
    groups = scores.T.reshape(-1, pattern.group)
    return largest(groups, pattern.group - pattern.zeros).reshape(scores.T.shape).T


def of_layer(scores: np.ndarray, share: float) -> np.ndarray:
    """Where the largest are of all columns of Wᵀ [in, out] together."""
    return largest(scores.T.reshape(1, -1), scores.size - round(share * scores.size)).reshape(scores.T.shape).T


def plain_admm(weight, x, share, pattern=None):
    """Algorithm of arXiv 2401.02938 on Wᵀ [in, out], as its authors lay it out, the largest of the whole layer as in their runs."""
    h = x.T @ x
    n = np.sqrt(np.diag(h)) + 1e-8
    h = h / n / n[:, None]
    w = (weight * n).T
    h = h + 0.1 * np.diag(h).mean() * np.eye(len(h))
    p, m, u = h @ w, np.linalg.inv(h + np.eye(len(h))), np.zeros_like(w)
    for t in range(20):
        if t < 15:
            now = share - share * (1 - (t + 1) / 15) ** 3
            mask = by_pattern(w + u, pattern) if pattern else of_layer(w + u, now)
        z = (w + u) * mask
        u = u + w - z
        w = m @ (p + z - u)
    return ((w + u) * mask).T / n


def plain_alps(weight, x, share, pattern=None):
    """Algorithms 1 and 2 of arXiv 2406.07831 on Wᵀ [in, out], the conjugate gradients column by column."""

    def top(scores):
        return by_pattern(scores, pattern) if pattern else of_layer(scores, share)

    h = x.T @ x
    h = h + 0.01 * np.diag(h).mean() * np.eye(len(h))
    n = np.sqrt(np.diag(h)) + 1e-8
    h = h / n / n[:, None]
    dense = (weight * n).T
    g, rho, grown = h @ dense, 0.1, False
    d, v = dense * top(dense), np.zeros_like(dense)
    last, k = d != 0, top(dense).sum()
    for i in range(300):
        b = np.linalg.solve(h + rho * np.eye(len(h)), g - v + rho * d)
        d = (b + v / rho) * top(b + v / rho)
        v = v + rho * (b - d)
        if (i + 1) % 3:
            continue
        c, last = ((d != 0) != last).sum() / k, d != 0
        if (c == 0 and grown) or (i + 1 >= 30 and c < 3e-4):
            break
        if c > 0.1:
            rho, grown = rho * 1.3, True
        elif c > 0.005:
            rho, grown = rho * 1.2, True
        elif grown:
            rho *= 1.1
        elif c > 0:
            rho, d, v = rho / 5, dense * top(dense), np.zeros_like(dense)
            last = d != 0
        else:
            rho /= 5
    support = top(b)
    b = b * support
    for column in range(b.shape[1]):
        on = support[:, column]
        r = np.where(on, g[:, column] - h @ b[:, column], 0)
        q = r.copy()
        for _ in range(10):
            step = h @ q
            a = (r @ r) / max(q @ step, 1e-300)
            b[:, column] += a * q
            new = np.where(on, r - a * step, 0)
            q, r = new + (new @ new) / max(r @ r, 1e-300) * q, new
    return b.T / n


METHODS = {admm_: plain_admm, alps_: plain_alps}


@pytest.mark.parametrize("ours", METHODS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("rows", [17, 80])
def test_equal_to_the_published_equations(ours, share, rows):
    weight, x = torch.randn(rows, 64, dtype=torch.float64), correlated(300, 64).double()
    result = weight.clone()
    ours(result, LayerSpec("l", share), fed(x), torch.float64)
    np.testing.assert_allclose(result.numpy(), METHODS[ours](weight.numpy(), x.numpy(), share), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ours", METHODS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_equal_to_the_published_equations_with_n_m(ours, pattern):
    weight, x = torch.randn(17, 64, dtype=torch.float64), correlated(300, 64).double()
    result = weight.clone()
    ours(result, LayerSpec("l", pattern.sparsity, pattern), fed(x), torch.float64)
    np.testing.assert_allclose(result.numpy(), METHODS[ours](weight.numpy(), x.numpy(), pattern.sparsity, pattern), rtol=1e-6, atol=1e-8)
    groups = (result.view(-1, pattern.group) == 0).sum(1)
    assert bool((groups == pattern.zeros).all())


@pytest.mark.parametrize("ours", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exactly_the_zeros_that_were_asked_for(ours, dtype):
    weight, x = torch.randn(40, 100).to(dtype), correlated(400, 100)
    ours(weight, LayerSpec("l", 0.7), fed(x, torch.float32))
    assert int((weight == 0).sum()) == 40 * 70
    assert weight.dtype == dtype


@pytest.mark.parametrize("ours", METHODS)
def test_an_input_that_is_always_zero_loses_its_weights_first(ours):
    weight, x = torch.randn(20, 60), correlated(300, 60)
    x[:, :12] = 0
    ours(weight, LayerSpec("l", 0.5), fed(x, torch.float32))
    assert torch.isfinite(weight).all()
    assert not weight[:, :12].any()


@pytest.mark.parametrize("share", [0.5, 0.7, 0.8])
def test_outputs_change_less_than_by_sparsegpt(share):
    weight, x = torch.randn(96, 160), correlated(1500, 160)

    def error(method) -> float:
        result = weight.clone()
        method(result, LayerSpec("l", share), fed(x, torch.float32))
        return float((x @ (result - weight).T).square().sum())

    reference = error(sparsegpt_)
    assert error(admm_) < reference
    assert error(alps_) < reference


@pytest.mark.parametrize("ours", METHODS)
def test_layers_that_share_inputs_share_the_work(ours):
    x = correlated(300, 48)
    first, second = torch.randn(10, 48), torch.randn(30, 48)
    alone, inputs = second.clone(), fed(x, torch.float32)
    ours(alone, LayerSpec("l", 0.5), fed(x, torch.float32))
    ours(first, LayerSpec("l", 0.5), inputs)
    assert inputs.gram is None, "the products are given up"
    ours(second, LayerSpec("l", 0.5), inputs)
    assert torch.equal(second, alone)


@pytest.mark.parametrize("ours", METHODS)
def test_weights_that_are_not_finite_are_refused(ours):
    weight = torch.randn(4, 16)
    weight[0, 0] = torch.inf
    with pytest.raises(LotteryError, match="l: holds weights that are not finite"):
        ours(weight, LayerSpec("l", 0.5), fed(correlated(50, 16), torch.float32))


@pytest.mark.parametrize("ours", METHODS)
def test_zeros_go_where_they_cost_least_whichever_row_that_is(ours):
    weight, x = torch.randn(20, 60), correlated(300, 60)
    weight[:10] /= 100
    ours(weight, LayerSpec("l", 0.5), fed(x, torch.float32))
    assert int((weight[:10] == 0).sum()) > 9 * 60 > 3 * 60 > int((weight[10:] == 0).sum())


def test_where_nothing_moves_the_penalty_falls_and_dependent_inputs_can_still_be_factorized(monkeypatch):
    monkeypatch.setattr(alps, "DAMPING", 0)  # as good as none in wide layers with two inputs that are large and equal
    weight, result = torch.randn(20, 200), torch.empty(20, 200)
    alps_(result.copy_(weight), LayerSpec("l", 1 / 4000), fed(torch.randn(300, 5) @ torch.randn(5, 200), torch.float32))
    assert torch.isfinite(result).all()
    assert int((result == 0).sum()) == 1


def test_products_that_cannot_be_factorized_at_all_are_an_error_that_says_what_helps(monkeypatch):
    monkeypatch.setattr(alps, "PENALTY", -1.0)
    with pytest.raises(ImpossibleTrialError, match="l: the products of its inputs cannot be factorized; take more calibration samples"):
        alps_(torch.randn(20, 64), LayerSpec("l", 0.5), fed(torch.randn(300, 64), torch.float32))
