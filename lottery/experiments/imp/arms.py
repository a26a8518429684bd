"""The arms of the procedure: what each starts from, which weights it keeps, and whether it is a control. One entry adds an arm."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from lottery.training.masks import Masks, random_mask, shuffled_mask


class Arm(NamedTuple):
    """One way to arrive at a trained network. ``summary`` has the network as its subject."""

    summary: str
    start: Literal["initialisation", "another initialisation", "rewound weights", "trained dense weights"]
    mask: Literal["none", "ticket", "dense"]  # that of the level's ticket, or of the trained dense model pruned once
    change: Callable[[Masks, int], Masks] = lambda masks, seed: masks  # what becomes of that mask, given the seed
    control: bool = False  # a ticket has to do better
    first_level: int = 1

    @property
    def trained(self) -> bool:
        return self.start != "trained dense weights"


ARMS = {
    "dense": Arm("all weights, trained from the start to the end", "initialisation", "none"),
    "dense rewound": Arm("all weights, trained again from the rewound weights, restarted as a ticket is", "rewound weights", "none"),
    "pruned": Arm("the trained dense model, pruned once and not trained again", "trained dense weights", "dense"),
    "ticket": Arm("the mask of the iterative procedure, trained again from the rewound weights", "rewound weights", "ticket"),
    # One shot to the first level is the first level of the iterative procedure.
    "one-shot": Arm(
        "the trained dense model pruned once, that mask trained again from the rewound weights", "rewound weights", "dense", first_level=2
    ),
    "new weights": Arm(
        "the ticket's mask on another initialisation, trained from the start to the end", "another initialisation", "ticket", control=True
    ),
    "random mask": Arm(
        "as many weights of each layer as the ticket has, drawn at random, from the rewound weights",
        "rewound weights", "ticket", random_mask, control=True,
    ),
    "shuffled mask": Arm(
        "the ticket's mask with the rows and the columns of each layer in another order, from the rewound weights",
        "rewound weights", "ticket", shuffled_mask, control=True,
    ),
}  # fmt: skip
DENSE = [name for name, arm in ARMS.items() if arm.mask == "none"]
CONTROLS = [name for name, arm in ARMS.items() if arm.control]


def arms_at(level: int) -> list[str]:
    """Return the names of the arms that a level has; level 0 has the dense ones."""
    return [name for name, arm in ARMS.items() if (name in DENSE if level == 0 else name not in DENSE and level >= arm.first_level)]
