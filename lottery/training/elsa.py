"""ELSA (arXiv 2510.01650): training towards a sparsity by ADMM, so that the mask is found while the weights adapt to it.

The weights w learn from the text, while z is the sparse copy of them that is nearest, and u sums up by how much the two have disagreed.
"""

import torch
from torch import nn

from lottery.pruning.layer_spec import LayerSpec, prune_lowest_

PENALTY = 0.01  # λ of the paper, tuned by its authors: 200 times less costs them 40% of the perplexity


class Elsa:
    """The state of an ELSA run: u − z of each layer in float32 and which weights z keeps, 5 bytes a weight.

    Where z keeps a weight it is w + u, so that u becomes 0 there; elsewhere z is 0. So one tensor holds both.

    It is for an AdamW whose second moment forgets as quickly as ``trainer.BETAS`` say, as in the paper.

    Args:
        layers: The layers to make sparse, by their names; their weights need gradients.
        specs: What each is to look like at the end.
        weighted: Whether a projection keeps the weights with the largest |w|·√v, v being Adam's second moment, rather than the largest
            |w|. The paper calls that the objective-aware projection, v being an estimate of the diagonal of the Fisher information. Here v
            is Adam's own, of gradients that the pull is part of.
    """

    def __init__(self, layers: dict[str, nn.Linear], specs: dict[str, LayerSpec], weighted: bool):
        self._specs, self._weighted = specs, weighted
        self._weights = {name: layer.weight for name, layer in layers.items()}
        self._moments: dict[str, torch.Tensor] = {}
        self._u_less_z = {name: -self._projected(name, weight.detach().float()) for name, weight in self._weights.items()}  # u is 0
        self._kept = {name: found != 0 for name, found in self._u_less_z.items()}

    @torch.no_grad()
    def pull(self, optimizer: torch.optim.Optimizer) -> None:
        """Add the proximal gradient λ(w − z + u) to the gradients."""
        for name, weight in self._weights.items():
            weight.grad.add_(weight, alpha=PENALTY).add_(self._u_less_z[name], alpha=PENALTY)
            if weight in optimizer.state:
                self._moments[name] = optimizer.state[weight]["exp_avg_sq"]

    @torch.no_grad()
    def project(self) -> None:
        """Set z = Proj(w + u) and u = u + w − z, as is due every ``recoveries.PERIOD`` steps."""
        for name, weight in self._weights.items():
            u = self._u_less_z[name].masked_fill_(self._kept[name], 0)
            both = u.add_(weight)
            z = self._projected(name, both)
            self._kept[name] = z != 0
            self._u_less_z[name] = both.sub_(z, alpha=2)  # −z where z keeps a weight, else the new u, which is w + u

    @torch.no_grad()
    def finish(self) -> None:
        """Set w = Proj(w): exactly the asked number of weights becomes zero."""
        for name, weight in self._weights.items():
            weight.copy_(self._projected(name, weight.detach()))

    @torch.no_grad()
    def _projected(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """Return a copy of ``values`` [out, in] with its lowest scores zeroed, compared within the layer."""
        found, moment = values.clone(), self._moments.get(name)
        score = (lambda rows, which: rows.abs() * moment[which].sqrt()) if self._weighted and moment is not None else None
        prune_lowest_(found, score, self._specs[name], comparison_group="layer")
        return found
