"""Every error a user can meet: whose fault it was, and what to do about it.

A message is one line: what is wrong, then what to do. Commands print it without a traceback and leave with `exit_code`.
"""

import errno
from enum import IntEnum


class Fault(IntEnum):
    """Who has to act for the next attempt to succeed."""

    OURS = 0
    """This program or this machine."""
    USER = 1
    """Whoever wrote the command or the call."""
    PEER = 2
    """A machine that answered wrongly, or not at all."""
    LOAD = 3
    """Nobody: there is too much to do right now."""


class DsdError(Exception):
    """The base of all errors raised on purpose; never raised itself by the library.

    If it cut an answer short, `text` and `token_ids` hold what had been committed.
    """

    exit_code = 1
    fault = Fault.OURS
    text: str = ""
    token_ids: tuple[int, ...] = ()


class UsageError(DsdError):
    """An option or argument that cannot be obeyed."""

    exit_code = 2
    fault = Fault.USER


class NoPeers(DsdError):
    """No peer could be reached."""

    exit_code = 3
    fault = Fault.PEER


class Refused(DsdError):
    """A peer answered and said no."""

    exit_code = 4
    fault = Fault.PEER


class ModelNotFound(DsdError):
    """There is no such model directory or repository."""

    exit_code = 5
    fault = Fault.USER


class TimedOut(DsdError):
    """A peer did not answer before the deadline."""

    exit_code = 6
    fault = Fault.PEER


class UnsupportedModel(DsdError):
    """The model exists, but its architecture or file format is not one we serve correctly."""

    exit_code = 7
    fault = Fault.USER


class InvalidSpan(DsdError):
    """The layers asked for are not in the model."""

    exit_code = 8
    fault = Fault.USER


class NotCovered(DsdError):
    """The peers at hand do not hold the whole model."""

    exit_code = 9
    fault = Fault.PEER


class PromptTooLong(DsdError):
    """The prompt and its answer do not fit the positions a session may hold."""

    exit_code = 10
    fault = Fault.USER


class VocabularyMismatch(DsdError):
    """The drafter and the target do not number tokens alike."""

    exit_code = 11
    fault = Fault.USER


class AddressInUse(DsdError):
    """Another program listens on the address."""

    exit_code = 12
    fault = Fault.USER


class PeerLost(DsdError):
    """A peer that was serving us is gone."""

    exit_code = 13
    fault = Fault.PEER


class ProtocolError(DsdError):
    """A peer sent something that the protocol forbids."""

    exit_code = 14
    fault = Fault.PEER


class OutOfCapacity(DsdError):
    """A node cannot hold what it was asked to hold.

    `retry_after`: in so many seconds the same request may succeed there; None if it never will.
    """

    exit_code = 15
    fault = Fault.LOAD

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InvalidWeights(DsdError):
    """The model's weight files are missing, damaged, or not safetensors."""

    exit_code = 16
    fault = Fault.USER


class UnsoundLibrary(DsdError):
    """A library is too old to be exposed to strangers."""

    exit_code = 17
    fault = Fault.USER


class StorageFull(DsdError):
    """The disk has no room for a file that must be kept."""

    exit_code = 18
    fault = Fault.OURS

    NUMBERS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
    """What the system calls it: a full disk, a spent quota, a file above the process's limit."""
