"""Memory that runs out: at which step, and what takes less."""

import re
from contextlib import contextmanager

# What CUDA, its libraries and C++ say, beside what accelerate knows.
_WORDS = re.compile(r"CUDA error: out of memory|CU(BLAS|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|std::bad_alloc")


class ShortageError(MemoryError):
    """Memory ran out at a step.

    Args:
        step: The step, as in "out of memory while pruning".
        cure: What a person may change.
        in_batches: Whether smaller batches take less.
        generating: Whether memory ran out on the device where the model generates.
        whole: Whether the step needs the whole model on its device, so that streaming it does not help.
    """

    def __init__(self, step: str, cure: str, in_batches: bool = False, generating: bool = False, whole: bool = False):
        super().__init__(f"out of memory {step}; take {cure}")
        self.step, self.in_batches, self.generating, self.whole = step, in_batches, generating, whole

    def without_frames(self) -> "ShortageError":
        """Drop the stack frames that this error passed, and return it: they hold what the memory is full of."""
        self.__cause__ = self.__context__ = self.__traceback__ = None
        return self


@contextmanager
def memory_for(step: str, cure: str, in_batches: bool = False, generating: bool = False, whole: bool = False):
    """Raise ``ShortageError`` if the body runs out of memory. If steps are nested, the error names the innermost one."""
    try:
        yield
    except ShortageError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_about_memory(error):
            raise
        raise ShortageError(step, cure, in_batches, generating, whole) from error


def is_about_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out: Python's own, or torch's on a CPU or a GPU."""
    from accelerate.utils.memory import should_reduce_batch_size  # which imports torch, and a report needs none

    return isinstance(error, MemoryError) or should_reduce_batch_size(error) or bool(_WORDS.search(str(error)))
