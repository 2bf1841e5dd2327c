"""What a run has computed, filed under what went into it, so that another process can go on from there.

A pass is a function of the data and of its reductions, an epoch one of the data and of its state. A run
that is begun again asks its journal before it computes either: what an earlier process has finished comes
back bit by bit, and the arithmetic in between is repeated. Nothing else has to be saved or restored.
"""

from __future__ import annotations

import contextlib
import contextvars
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dask.tokenize import tokenize

from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Entry:
    """A result at rest.

    Attributes
    ----------
    arrays : dict of str to ndarray or csr_array
    facts : dict
        Plain JSON.
    """

    arrays: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Journal(ABC):
    """Where results are kept."""

    def __init__(self) -> None:
        #: Entries that this run found and those that it made.
        self.n_recalled = self.n_kept = 0
        self._settled: dict[str, int] = {}
        #: How often this run has finished an output, by what went into it.
        self.finished: Counter[str] = Counter()

    @property
    @abstractmethod
    def identity(self) -> str:
        """Tell the job from all others: the same in all its runs, another once it is begun anew."""

    @abstractmethod
    def recall(self, key: str) -> Entry | None:
        """Give what was kept under a key, if anything was."""

    @abstractmethod
    def keep(self, key: str, name: str, entry: Entry) -> None:
        """Keep an entry; ``name`` is for people who look into the journal."""

    @abstractmethod
    def flush(self) -> None:
        """See to it that everything kept outlasts this process."""

    @abstractmethod
    def declare(self, facts: dict[str, Any]) -> None:
        """Say what is about to be computed; refuse to go on from something else.

        Raises
        ------
        CheckpointError
            Names the settings, or the data, that differ from those of the earlier run.
        """

    def settle(self, name: str, choose: Callable[[dict[str, Any]], T], describe: Callable[[T], Any]) -> T:
        """Make a choice as an earlier run of the job made it; see :func:`settled`."""
        key = f"{name}-{self._settled.get(name, 0)}"
        entry = self.recall(key)
        result = choose({} if entry is None else entry.facts)
        if entry is None:
            self.keep(key, name, Entry(facts=describe(result)))
        self._settled[name] = self._settled.get(name, 0) + 1
        return result


_current: contextvars.ContextVar[Journal | None] = contextvars.ContextVar("nysstream_journal", default=None)


def current_journal() -> Journal | None:
    """Return the journal of this run, if it keeps one."""
    return _current.get()


@contextlib.contextmanager
def journaling(journal: Journal | None) -> Iterator[None]:
    """Keep a journal of what is computed inside the block; None keeps none."""
    token = _current.set(journal)
    try:
        yield
    finally:
        _current.reset(token)


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Keep the passes inside the block out of trace and journal: those over rows in memory."""
    with tracing(Trace()), journaling(None):
        yield


def settled(name: str, choose: Callable[[dict[str, Any]], T], describe: Callable[[T], dict[str, Any]]) -> T:
    """Make a choice that depends on the machine, such as on its free memory, once for a job.

    Parameters
    ----------
    name : str
        Of the choice; the first, second, ... of this name are told apart.
    choose : callable
        Given what an earlier run of the job described, or nothing, makes the choice; it may fail, and be
        tried again.
    describe : callable
        Says in plain JSON what was chosen.
    """
    journal = current_journal()
    return choose({}) if journal is None else journal.settle(name, choose, describe)


def key_of(*inputs: Any) -> str:
    """Give the key of a result by what went into it.

    Raises
    ------
    TypeError
        If something has no lasting identity, such as a function of another process.
    """
    return str(tokenize(*inputs, ensure_deterministic=True))


def remembered(
    name: str,
    inputs: tuple[Any, ...],
    compute: Callable[[], T],
    pack: Callable[[T], Entry],
    unpack: Callable[[Entry], T],
) -> tuple[T, bool]:
    """Compute a result, or recall it, and say whether it was recalled.

    Parameters
    ----------
    name : str
        For people.
    inputs : tuple
        All that the result depends on, down to the bits.
    compute : callable
    pack, unpack : callable
        Turn the result into an entry, and back without a difference.
    """
    journal = current_journal()
    if journal is None:
        return compute(), False
    key = key_of(name, *inputs)
    entry = journal.recall(key)
    if entry is not None:
        return unpack(entry), True
    result = compute()
    journal.keep(key, name, pack(result))
    return result, False
