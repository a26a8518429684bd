"""The one exception that is meant for the person at the keyboard."""


class LotteryError(Exception):
    """Something that the reader of the message can mend. Its text is one line: what was given, what is allowed, what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: in a notebook the line is shown alone, without frames from inside the package.
        return [f"{type(self).__name__}: {self}"]


def short(value: object, most: int = 120) -> str:
    """A value as Python writes it, for a message: of a long one the beginning, and how long it is."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


class ParamsError(LotteryError, ValueError):
    """A profile or a parameter that is not valid."""


class NotFetchedError(LotteryError, FileNotFoundError):
    """A checkpoint or a text of the hub that is not on this machine yet."""


class StoppedError(LotteryError):
    """The study was asked to stop, and did so between two trials."""


class NoRoomError(LotteryError):
    """A model's weights do not fit into the memory that is free."""


class HeldError(LotteryError):
    """Another run is at work in the same folder."""


class NotFiniteError(LotteryError, ArithmeticError):
    """The dense model itself gives infinity or no number: its dtype overflows, or the checkpoint is damaged."""
