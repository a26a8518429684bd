"""SparseGPT against the paper's algorithm, written out plainly in float64, and against what must hold of any such update."""

import pytest
import torch

from lottery.common.errors import LotteryError
from lottery.pruning.activations import ActivationStats
from lottery.pruning.layer_spec import LayerSpec
from lottery.pruning.methods.admm import admm_
from lottery.pruning.methods.sparsegpt import sparsegpt_
from lottery.pruning.pattern import Pattern


def fed(x: torch.Tensor, dtype=torch.float64) -> ActivationStats:
    inputs = ActivationStats(x.shape[1], x.device, gram=True)
    inputs.gram = inputs.gram.to(dtype)
    inputs.tokens, inputs.squares, inputs.gram = len(x), x.double().square().sum(0), x.to(dtype).T @ x.to(dtype)
    return inputs


def plain(weight: torch.Tensor, x: torch.Tensor, share: float, pattern=None, block=128) -> torch.Tensor:
    """Algorithm 1 of arXiv 2301.00774 column by column, nothing clever."""
    w, columns = weight.double().clone(), weight.shape[1]
    hessian = 2 / len(x) * x.double().T @ x.double()
    dead = hessian.diagonal() == 0
    damping = 0.01 * hessian.diagonal()[~dead].mean()
    hessian[dead, dead] = 1
    w[:, dead] = 0
    hessian += damping * torch.eye(columns, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian)).T  # H⁻¹ = LLᵀ = UᵀU
    keep = torch.ones_like(w, dtype=torch.bool)
    for j in range(columns):
        if pattern is None and j % block == 0:
            stop = min(j + block, columns)
            score = w[:, j:stop] ** 2 / upper.diagonal()[j:stop] ** 2
            gone = score.flatten().argsort()[: round(share * score.numel())]
            keep[:, j:stop] = torch.ones(score.numel(), dtype=torch.bool).scatter(0, gone, False).view_as(score)
        if pattern and j % pattern.group == 0:
            stop = j + pattern.group
            score = w[:, j:stop] ** 2 / upper.diagonal()[j:stop] ** 2
            keep[:, j:stop] = torch.ones_like(score, dtype=torch.bool).scatter(1, score.argsort(1)[:, : pattern.zeros], False)
        error = torch.where(keep[:, j], 0, w[:, j]) / upper[j, j]
        w[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
        w[~keep[:, j], j] = 0
    return w


def correlated(tokens: int, width: int) -> torch.Tensor:
    return torch.randn(tokens, width // 2) @ torch.randn(width // 2, width) + torch.randn(tokens, width)


@pytest.mark.parametrize("width", [20, 128, 300])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_equal_to_the_papers_algorithm(width, share):
    weight, x = torch.randn(33, width, dtype=torch.float64), correlated(500, width)
    result = weight.clone()
    sparsegpt_(result, LayerSpec("l", share), fed(x), torch.float64)
    torch.testing.assert_close(result, plain(weight, x, share), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pattern", [Pattern(2, 4), Pattern(4, 8), Pattern(1, 5), Pattern(7, 20)])
def test_equal_to_the_papers_algorithm_with_n_m(pattern):
    weight, x = torch.randn(33, 280, dtype=torch.float64), correlated(500, 280)
    result = weight.clone()
    sparsegpt_(result, LayerSpec("l", pattern.sparsity, pattern), fed(x), torch.float64)
    torch.testing.assert_close(result, plain(weight, x, pattern.sparsity, pattern), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_the_update_never_makes_the_outputs_worse_than_the_mask_alone(share):
    weight, x = torch.randn(40, 200), correlated(600, 200)
    updated = weight.clone()
    sparsegpt_(updated, LayerSpec("l", share), fed(x, torch.float32))
    masked = torch.where(updated == 0, 0, weight)
    error = lambda w: float((x @ (w - weight).T).square().sum())  # noqa: E731
    assert error(updated) < error(masked)


def test_one_weight_a_row_is_removed_as_the_optimal_brain_surgeon_does():
    """δw = -w_p / [H⁻¹]_pp · H⁻¹_p over the weights from p on; those before p are settled already (closed form, Hassibi & Stork)."""
    width, place = 24, 9
    weight, x = 5 + torch.rand(6, width, dtype=torch.float64), correlated(200, width)
    weight[:, place] = 0.01  # the one that goes in every row
    hessian = 2 / len(x) * x.double().T @ x.double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    inverse = torch.linalg.inv(hessian[place:, place:])
    expected = weight.clone()
    expected[:, place:] -= weight[:, place, None] / inverse[0, 0] * inverse[0]
    result = weight.clone()
    sparsegpt_(result, LayerSpec("l", 1 / width), fed(x), torch.float64)
    assert (result[:, place] == 0).all()
    torch.testing.assert_close(result, expected.where(result != 0, 0), rtol=1e-9, atol=1e-9)


def test_exactly_the_asked_share_of_each_block_of_columns_goes():
    weight, x = torch.randn(31, 300), correlated(600, 300)
    sparsegpt_(weight, LayerSpec("l", 0.7), fed(x, torch.float32))
    assert [int((part == 0).sum()) for part in weight.split(128, dim=1)] == [round(0.7 * 31 * n) for n in (128, 128, 44)]


def test_inputs_that_are_always_zero_lose_their_weights_and_break_nothing():
    weight, x = torch.randn(10, 40, dtype=torch.float64), 1e-3 * correlated(100, 40)  # live ones far below the 1 of those
    x[:, [3, 17]] = 0
    result = weight.clone()
    sparsegpt_(result, LayerSpec("l", 0.5), fed(x), torch.float64)
    assert (result[:, [3, 17]] == 0).all()
    assert int((result == 0).sum()) == 200
    torch.testing.assert_close(result, plain(weight, x, 0.5), rtol=1e-9, atol=1e-9)


def test_fewer_tokens_than_inputs_are_enough_and_layers_share_a_factor():
    weight, x = torch.randn(10, 64), torch.randn(5, 64)
    inputs = fed(x, torch.float32)
    first, second = weight.clone(), weight.clone()
    sparsegpt_(first, LayerSpec("a", 0.5), inputs)
    sparsegpt_(second, LayerSpec("b", 0.5), inputs)
    assert torch.equal(first, second)
    assert torch.isfinite(first).all()
    with pytest.raises(ValueError, match=r"^given admm; allowed: factor, for which the products were given up; measure again for another$"):
        admm_(weight, LayerSpec("c", 0.5), inputs)


def test_products_that_cannot_be_factorized_name_the_layer_and_a_way_out():
    inputs = fed(torch.randn(50, 8))
    inputs.gram = -1e6 * torch.ones(8, 8, dtype=torch.float64).fill_diagonal_(-1e-6)
    with pytest.raises(
        LotteryError, match=r"^l: the products of its inputs cannot be factorized; take more calibration samples, or method: wanda"
    ):
        sparsegpt_(torch.randn(4, 8), LayerSpec("l", 0.5), inputs)
