"""N:M patterns."""

import re
from typing import NamedTuple


class Pattern(NamedTuple):
    """An N:M pattern. N counts what stays, as in NVIDIA's 2:4 and in the papers on training such networks (arXiv 2102.04010).

    Some scripts count what goes, which is the same for 2:4 and 4:8 only.

    Attributes:
        kept: N, the weights that stay in each group.
        group: M, the number of neighbouring inputs of a row in a group.
    """

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> "Pattern | None":
        """Parse a pattern such as "2:4"; return ``None`` for "unstructured".

        Raises:
            ValueError: ``text`` is anything else.
        """
        if text == "unstructured":
            return None
        found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
        if not found or int(found[1]) >= int(found[2]):
            raise ValueError(f"{text!r} is no pattern")
        return cls(int(found[1]), int(found[2]))

    @property
    def zeros(self) -> int:
        return self.group - self.kept

    @property
    def sparsity(self) -> float:
        """The share of weights that go."""
        return self.zeros / self.group
