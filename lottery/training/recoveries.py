"""What can be asked of retraining: how, and what is learned. Words and a number, so that a report need not load what trains."""

RECOVERIES = {  # how, with the way as its subject
    "masked": "trains what pruning left; zeros stay zero",
    "elsa": "trains all weights and pulls them towards a sparse copy, which a projection that knows their gradients renews every 32 steps"
    " (arXiv 2510.01650)",
    "elsa-identity": "is elsa with a projection by magnitude",
}
LOSSES = {
    "cross-entropy": "the text",
    "distillation": "the dense model's predictions (Kullback-Leibler divergence over the full vocabulary, arXiv 1503.02531)",
}


def steps_to_choose(steps: int) -> int:
    """Return after how many of ``steps`` a learning rate is judged: an eighth."""
    return max(1, steps // 8)
