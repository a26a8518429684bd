"""Memory that does not do: at which step it ran out, and what takes less."""

from contextlib import contextmanager


class ShortageError(MemoryError):
    """Memory ran out at a step.

    ``step``, as in "out of memory while pruning"; ``cure``, what a person may change; ``in_batches``, whether smaller batches take less;
    ``speaking``, whether it is at the device where the model generates.
    """

    def __init__(self, step: str, cure: str, in_batches: bool = False, speaking: bool = False):
        super().__init__(f"out of memory {step}; take {cure}")
        self.step, self.in_batches, self.speaking = step, in_batches, speaking

    def without_frames(self) -> "ShortageError":
        """The same, but for the frames that it passed: they hold what the memory is full of."""
        self.__cause__ = self.__context__ = self.__traceback__ = None
        return self


@contextmanager
def memory_for(step: str, cure: str, in_batches: bool = False, speaking: bool = False):
    """Raises ``ShortageError`` where what is done meanwhile runs out of memory. The innermost step is the one that is named."""
    try:
        yield
    except ShortageError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_about_memory(error):
            raise
        raise ShortageError(step, cure, in_batches, speaking) from error


def is_about_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out: Python's, or torch's on a CPU or a GPU."""
    from accelerate.utils.memory import should_reduce_batch_size  # which imports torch, and a report needs none

    return isinstance(error, MemoryError) or should_reduce_batch_size(error)
