"""Errors meant for the person at the keyboard: one base class and its kinds."""


class LotteryError(Exception):
    """An error that the reader can fix. Its text is one line: what was given, what is allowed, what to do."""

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this: in a notebook the line is shown alone, without frames from inside the package.
        return [f"{type(self).__name__}: {self}"]


def short(value: object) -> str:
    """Return a value's ``repr`` for a message; cut a long one after 120 characters and add its full length."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}… ({len(text):,} characters)"


def on_one_line(text: object, longest: int = 300) -> str:
    """Return a text of many lines as one for a message, cut after ``longest`` characters."""
    return " ".join(str(text).split())[:longest]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, cut after 300 characters; its class's name where it says nothing."""
    return (str(error).splitlines() or [""])[0][:300] or type(error).__name__


def with_class(error: BaseException) -> str:
    """Return an error's class and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


class ParamsError(LotteryError, ValueError):
    """A profile or a parameter is not valid."""


class NotFetchedError(LotteryError, FileNotFoundError):
    """A checkpoint or text from the hub is not on this machine yet."""


class StoppedError(LotteryError):
    """The study was asked to stop and did so between two trials."""


class NoRoomError(LotteryError):
    """A model's weights do not fit into the free memory."""


class HeldError(LotteryError):
    """Another run is at work in the same folder."""


class NotFiniteError(LotteryError, ArithmeticError):
    """The dense model itself gives infinity or NaN: its dtype overflows, or the checkpoint is damaged."""


class ImpossibleTrialError(LotteryError):
    """One trial cannot be made as asked for, whatever the machine; the others of its study can."""


class TrialMemoryError(LotteryError):
    """One trial needs more memory than this machine has free; the others of its study need less."""


class DivergedError(ImpossibleTrialError, ArithmeticError):
    """A retraining leaves weights that are not finite: its learning rate is too high."""


class CalibrationNotFiniteError(LotteryError, ArithmeticError):
    """A layer gets infinity or NaN on the calibration text: the dtype overflows where blocks before it are pruned already."""
