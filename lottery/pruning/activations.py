"""What is measured of a linear layer's inputs over the calibration tokens."""

from collections.abc import Callable

import torch

from lottery.common.errors import CalibrationNotFiniteError, ImpossibleTrialError, LotteryError

DAMPING = 0.01  # of the Hessian's mean diagonal, as in SparseGPT's code
_TRIES = 6  # each with ten times the damping of the one before
_PANEL = {"cpu": 256, "cuda": 1024}  # rows of the products at a time; a GPU wants larger ones


class ActivationStats:
    """Sums over the inputs X [tokens, in] of one layer, or of several that share them: squares, and with ``gram`` all products.

    Squares are summed in float32 within a sample and in float64 over the samples, so their order and number hardly show. The products, in²
    of them, are summed in float32, only those on and below the diagonal: the others are the same.
    """

    def __init__(self, width: int, device: torch.device, *, gram: bool = False):
        self.tokens = 0
        self.squares = torch.zeros(width, dtype=torch.float64, device=device)
        self._gram = torch.zeros(width, width, device=device) if gram else None
        self._view: tuple[str, tuple] | None = None

    def add(self, x: torch.Tensor) -> None:
        """Add inputs of any leading shape, [..., in]."""
        x = x.detach().reshape(-1, x.shape[-1]).float()
        self.tokens += len(x)
        self.squares += x.square().sum(0)
        for panel in self._panels():
            self._gram[panel, : panel.stop].addmm_(x[:, panel].T, x[:, : panel.stop])

    @property
    def gram(self) -> torch.Tensor | None:
        """Products XᵀX of the inputs so far, float32 [in, in]; ``None`` if they were not asked for, or were given up."""
        for panel in self._panels():
            self._gram[: panel.start, panel] = self._gram[panel, : panel.start].T
        return self._gram

    @gram.setter
    def gram(self, products: torch.Tensor | None) -> None:
        self._gram = products

    def _panels(self) -> list[slice]:
        if self._gram is None:
            return []
        width, size = len(self._gram), _PANEL.get(self._gram.device.type, _PANEL["cpu"])
        return [slice(start, min(start + size, width)) for start in range(0, width, size)]

    def check(self, name: str) -> None:
        """Check that the layer was fed tokens, and that all its inputs are finite.

        Raises:
            LotteryError: The layer saw no token.
            CalibrationNotFiniteError: An input is not finite.
        """
        if not self.tokens:
            raise LotteryError(f"{name}: no calibration token reached this layer, so its weights cannot be judged")
        if not torch.isfinite(self.squares).all():
            raise CalibrationNotFiniteError(
                f"{name}: its inputs are not finite on the calibration text; the dtype overflows, set dtype: float32"
            )

    def shared(self, name: str, view: Callable[["ActivationStats"], tuple]) -> tuple:
        """Return what a method makes of the products. Layers that share their inputs share it, and the products are given up for it.

        Args:
            name: The view's name.
            view: Makes it of these statistics.

        Raises:
            ValueError: The products were given up for another view.
        """
        if self._view is None:
            self._view = name, view(self)
            self.gram = None  # in² numbers are much memory: no more of such than needed at one time
        made, found = self._view
        if made != name:
            raise ValueError(f"given {name}; allowed: {made}, for which the products were given up; measure again for another")
        return found

    def norms(self) -> torch.Tensor:
        """Return ‖X_j‖₂ of each input, float32 [in]."""
        return self.squares.sqrt().float()

    def factor(self, name: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the upper Cholesky factor U of H⁻¹ = UᵀU, and which inputs are always 0; this is SparseGPT's view of the inputs.

        H = 2XᵀX/n + 0.01 · mean(diag) · I, with n tokens. An input that is always 0 is not in that mean, and has 1 on the diagonal. If the
        order of rows and columns is reversed, the lower factor of H becomes R in H = RRᵀ with R upper, and U = R⁻¹. That takes one
        factorization and one triangular inverse; the textbook takes two factorizations and a full inverse. Layers that share their inputs
        share the factor, and the products are given up for it.

        Args:
            name: The layer's name, for errors.
            dtype: The dtype to compute in.

        Returns:
            U [in, in], and the mask of inputs that are always 0 [in].

        Raises:
            ImpossibleTrialError: H cannot be factorized even with 10⁵ times that damping.
        """
        return self.shared("factor", lambda inputs: inputs._factorized(name, dtype))

    def _factorized(self, name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        hessian = self.gram.to(dtype).mul_(2 / self.tokens).flip(0, 1)
        self.gram = None
        diagonal = hessian.diagonal()
        dead = diagonal == 0
        damping = DAMPING * diagonal.sum() / (~dead).sum().clamp_min(1)  # the 1 of dead inputs says nothing about the size of the others
        diagonal[dead] = 1
        for _ in range(_TRIES):
            diagonal += damping
            lower, failed = torch.linalg.cholesky_ex(hessian)
            if not failed:
                break
            damping = damping * 10
        else:
            raise not_factorized(name)
        identity = hessian.zero_().fill_diagonal_(1)
        inverse = torch.linalg.solve_triangular(lower, identity, upper=False, out=identity)
        del lower
        return inverse.flip(0, 1), dead.flip(0)  # turned back, the lower factor is the upper one


def not_factorized(name: str) -> ImpossibleTrialError:
    """Make the error to raise if the products of a layer's inputs cannot be factorized, whatever is done for it."""
    return ImpossibleTrialError(f"{name}: the products of its inputs cannot be factorized; take more calibration samples, or method: wanda")
