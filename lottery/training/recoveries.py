"""What can be asked of retraining: how, and what is learned. Words and numbers, so that a report need not load what trains."""

PERIOD = 32  # steps between two projections of ELSA, as in its authors' code
CHOICE = 8  # a learning rate is judged after one in so many of the steps

RECOVERIES = {  # how, with the way as its subject
    "masked": "trains what pruning left; zeros stay zero",
    "elsa": "lets zeros move: it trains the linear layers inside the blocks and pulls them towards a sparse copy, which a projection that"
    f" knows their gradients renews every {PERIOD} steps (arXiv 2510.01650, where all parameters are trained, and longer)",
    "elsa-identity": "is elsa with a projection by magnitude",
}
LOSSES = {
    "cross-entropy": "the text",
    "distillation": "the dense model's predictions (Kullback-Leibler divergence over the full vocabulary, arXiv 1503.02531)",
}


def steps_to_choose(steps: int) -> int:
    """Return after how many of ``steps`` a learning rate is judged."""
    return max(1, steps // CHOICE)
