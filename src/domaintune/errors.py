"""The exception tree. Every error a user can cause is one of these; nothing else lives here."""

from __future__ import annotations


class DomainTuneError(Exception):
    """Bad input or an impossible request, told so that the user can mend it.

    The text reads "where: what is wrong. What to do." The command line prints it without a traceback and exits with 2.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(" ".join(part for part in (f"{where}:" if where else "", what, remedy) if part))


class RecipeError(DomainTuneError):
    """A recipe that contradicts itself, an unknown key, or a value out of range."""


class DataError(DomainTuneError):
    """A file or row that cannot be used; `where` is "file:line" where a line exists."""


class BaseError(DomainTuneError):
    """A base model that cannot be loaded, or that lacks what was asked of it."""


class MethodError(DomainTuneError):
    """A method that cannot be applied to this base, told before training starts."""


class RunError(DomainTuneError):
    """A run folder that is missing, unfinished, finished already, or of another recipe."""


class CheckpointError(RunError):
    """A checkpoint that cannot be gone on with: of another training, of another version, or damaged."""


class DeviceMemoryError(DomainTuneError):
    """More than the device's memory holds; `where` is the recipe's key to lower, or "device" where no smaller forward would help."""


class TrainingError(DomainTuneError):
    """Training that cannot go on, such as a loss that stays non-finite after every rollback."""
