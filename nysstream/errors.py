"""One family of errors and warnings; every message says what to change."""

from __future__ import annotations

import numpy as np


class NysstreamError(Exception):
    """Base of every error raised on purpose by this package."""


class InputError(NysstreamError, ValueError):
    """An argument or a data value cannot be used; the message names it and the remedy."""


class SourceError(NysstreamError, OSError):
    """A store cannot be opened or one of its chunks cannot be read or decoded."""


class MissingChunksError(SourceError):
    """Chunks that should hold data are absent from a store."""


class OutputExistsError(NysstreamError, FileExistsError):
    """The place to write to is taken; nothing was written."""


class MemoryBudgetError(NysstreamError, MemoryError):
    """The job cannot run within its memory budget; the message names the smallest that would do."""


class CheckpointError(NysstreamError, OSError):
    """A checkpoint cannot be written, is damaged, or is of another job; what was written before is whole."""


class NotPositiveSemidefinite(NysstreamError, np.linalg.LinAlgError):
    """An operator that must be positive semidefinite is not."""


class SolverError(NysstreamError, RuntimeError):
    """A solver stopped without an answer and ``throw=True`` was asked for."""


class NysstreamWarning(UserWarning):
    """Base of every warning issued on purpose by this package."""


class DataWarning(NysstreamWarning):
    """The data are legal but surprising: absent chunks, constant columns, duplicated columns."""


class AccuracyWarning(NysstreamWarning):
    """The answer is less certain than asked for: not unique, or below the noise floor."""


class OrderWarning(NysstreamWarning):
    """The rows are sorted, and the method visits them a few blocks at a time."""
