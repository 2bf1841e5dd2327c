"""Outputs that are written over several runs of a job: how far they are is noted in its journal."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from nysstream.errors import CheckpointError, SourceError
from nysstream.journal import Entry, current_journal, key_of
from nysstream.sources.locking import sole_writer
from nysstream.sources.remote import explained
from nysstream.sources.staging import partial_of, remove_aside, written_aside
from nysstream.sources.targets import locate, refuse_taken

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from contextlib import ExitStack

    from zarr.abc.store import Store

    from nysstream.journal import Journal
    from nysstream.sources.stream import Blocks

#: Seconds between two notes: each is a few small files.
_SECONDS = 1.0
#: Attribute of an output that names the job which was the last to write to it, published or not.
MARK = "written_by"


class Continued:
    """An output of rows, as far as the runs of a job have written it.

    What is noted may be lost or old; the output itself says which job was the last to write to it.

    Parameters
    ----------
    journal : Journal
        Of the job.
    name : str
        What to call the output in messages.
    place : pathlib.Path or zarr.abc.store.Store
        Where it goes.
    key : str
        What goes into it.
    in_place : bool
        Whether rows are added to a store; else a local output is written aside.

    Attributes
    ----------
    token : str
        Tells the job from others, in the output and in the directory beside a local one in which it is
        written; see :func:`written_aside`.
    begun : bool
        Whether an earlier run has begun it, and nobody else has written to it since.
    displaced : bool
        Whether others have written to it since.
    done : bool
        Whether it is complete, and where it belongs: there is nothing left to do.
    counts : dict of str to int
        What an earlier run has written: ``rows``, and of sparse rows ``entries``; where rows are added to a
        store, those of the store are among them, and ``before`` counts these.
    """

    def __init__(
        self, journal: Journal, name: str, place: Path | Store, key: str, *, in_place: bool = False
    ) -> None:
        self._journal, self._name, self._place, self._input = journal, name, place, key
        self._in_place = in_place
        # What a run does once more after it was done is another output.
        self._key = key_of("rows written", key, journal.finished[key])
        self.token = key_of(journal.identity, self._key)[:16]
        self.look()

    def look(self) -> None:
        """Find out how far it is; again when others are kept out, who may have gone on meanwhile."""
        entry = self._journal.recall(self._key)
        found: dict[str, Any] = {} if entry is None else entry.facts
        self.counts: dict[str, int] = found.get("counts", {})
        self._complete, self.done = bool(found.get("complete")), bool(found.get("done"))
        self.begun, self.displaced = bool(found), False
        if not self._in_place:
            self._look_at_output()
        self._kept, self._noted = self.counts, time.monotonic()

    def _look_at_output(self) -> None:
        writer = _last_writer(self._name, self._place)
        ours, local = writer == self.token, isinstance(self._place, Path)
        # What is written aside appears when it is complete, perhaps just before the run was killed.
        self.done = writer is not None and (self.done or (local and ours and self._complete))
        if self.done:
            return
        if isinstance(self._place, Path):
            ours = _last_writer(self._name, partial_of(self._place, self.token)) == self.token
        else:
            self.displaced = self.begun and writer is not None and not ours
        if not ours:
            self.begun, self.counts, self._complete = False, {}, False

    @property
    def rows(self) -> int:
        """Rows that an earlier run has written."""
        return self.counts.get("rows", 0)

    @property
    def mark(self) -> dict[str, Any]:
        """Attributes by which the output says who writes to it, and after how many rows of others."""
        return {MARK: {"token": self.token, "before": self.counts.get("before", 0)}}

    def begin(self) -> None:
        """Note that it is being written from now on."""
        self._keep(now=True)

    def begin_after(self, name: str, mark: object, committed: int) -> int:
        """Give the rows of a store to add others after, to a caller who keeps other writers out.

        Parameters
        ----------
        name : str
            Of the store.
        mark : object
            That of the job which was the last to write to it, published or not.
        committed : int
            Rows that the store has published.

        Raises
        ------
        CheckpointError
            If the store has rows that are not from this job.
        """
        self.look()
        # Whoever wrote last may have written over rows that we had not published.
        if isinstance(mark, dict) and mark.get("token") == self.token:
            before = int(mark["before"])
            # All rows are published at once.
            rows = committed if committed > before else max(before, self.rows)
            self.counts = self.counts | {"before": before, "rows": rows}
            return rows
        before = self.counts.get("before", committed)
        if committed != before:
            own = "perhaps" if self._complete else "not"
            message = (
                f"{name} had {before} rows when this append began, and others have appended since: it has "
                f"{committed}, those of this append {own} among them. To append them now, begin anew with "
                "overwrite=True"
            )
            raise CheckpointError(message)
        self.counts, self._complete = {"before": committed, "rows": committed}, False
        self.begin()
        return committed

    def note(self, *, now: bool = False, **counts: int) -> None:
        """Note how much is written: each time if ``now``, else once in a while."""
        self.counts = self.counts | counts
        due = now or time.monotonic() - self._noted >= _SECONDS
        if due and not self._complete and self.counts != self._kept:
            self._keep()

    def complete(self, **counts: int) -> None:
        """Note that everything is written, before it appears where it belongs."""
        self.counts, self._complete = self.counts | counts, True
        self._keep(now=True)

    def finish(self) -> None:
        """Note that it has been published."""
        self.done = True
        self._keep(now=True)
        self._journal.finished[self._input] += 1

    def _keep(self, *, now: bool = False) -> None:
        facts = {"counts": self.counts, "complete": self._complete, "done": self.done}
        self._journal.keep(self._key, "rows written", Entry(facts=facts))
        if now:
            self._journal.flush()
        self._kept, self._noted = self.counts, time.monotonic()


def continued(
    target: str | os.PathLike[str] | Store, facts: dict[str, Any], *, in_place: bool = False
) -> Continued | None:
    """Say how far earlier runs of the job have written an output; None where no journal is kept.

    Parameters
    ----------
    target : str, pathlib.Path or zarr.abc.store.Store
    facts : dict
        What the rows depend on, as plain JSON: their source and all settings.
    in_place : bool
        Whether a local output is written where it is, too.

    Raises
    ------
    CheckpointError
        If the earlier runs wrote something else.
    """
    journal = current_journal()
    if journal is None:
        return None
    name, place = locate(target)
    facts = {"output": os.path.abspath(name) if isinstance(place, Path) else name, **facts}
    journal.declare(facts)
    found = Continued(journal, name, place, key_of(facts), in_place=in_place)
    if found.done:
        journal.finished[key_of(facts)] += 1
        if isinstance(place, Path) and not in_place:
            remove_aside(place, found.token)  # killed while the old output was being removed
    return found


def entered(
    stack: ExitStack, name: str, place: Path | Store, *, overwrite: bool, continued: Continued | None
) -> tuple[Path | Store, int | None]:
    """Give where an output is to be written, and the rows that earlier runs of the job have left there."""
    _refuse_others(name, place, overwrite=overwrite, continued=continued)
    if overwrite or continued is not None:  # else there is nothing that others could be writing to
        # Entered first, it is left last: others are kept out until the output is in its place.
        stack.enter_context(sole_writer(name, place))
    if continued is None:
        if isinstance(place, Path):
            return stack.enter_context(written_aside(place, overwrite=overwrite)), None
        return place, None
    continued.look()
    if continued.done:
        message = f"another run of this job has finished {name} meanwhile: there is nothing left to do"
        raise CheckpointError(message)
    _refuse_others(name, place, overwrite=overwrite, continued=continued)
    stack.push(lambda kind, *_: continued.finish() if kind is None else None)
    inside: Path | Store = place
    if isinstance(place, Path):
        if not continued.begun:
            remove_aside(place, continued.token)
        inside = stack.enter_context(written_aside(place, overwrite=overwrite, token=continued.token))
        for path in inside.rglob("*.partial"):  # what a killed run had in hand
            path.unlink(missing_ok=True)
    if not continued.begun:
        continued.begin()
    return inside, continued.rows or None


def _refuse_others(name: str, place: Path | Store, *, overwrite: bool, continued: Continued | None) -> None:
    """Raise if an output would take the place of what others wrote."""
    if continued is not None and continued.displaced and not overwrite:
        message = (
            f"{name} has been written by another job since this one began: choose another place, or pass "
            "overwrite=True to write over it"
        )
        raise CheckpointError(message)
    if continued is None or not continued.begun or isinstance(place, Path):
        refuse_taken(name, place, overwrite=overwrite)


def _last_writer(name: str, place: Path | Store) -> str | None:
    """Give the token of the job that was the last to write to an output; None where nothing is there."""
    if isinstance(place, Path) and not os.path.lexists(place):
        return None
    try:
        mark: Any = zarr.open(place, mode="r").attrs.get(MARK)
    except Exception as error:  # each back end has errors of its own
        if isinstance(place, Path):
            return ""  # something else, or what is left of a store that was being removed
        if isinstance(error, FileNotFoundError):
            return None
        message = f"cannot write {name}: {explained(error)}"
        raise SourceError(message) from error
    return str(mark["token"]) if isinstance(mark, dict) and "token" in mark else ""


def without_first(blocks: Iterable[Blocks], n_rows: int) -> Generator[Blocks]:
    """Leave out the first rows of a run of blocks."""
    for block in blocks:
        n = len(next(iter(block.values())))
        if n_rows < n:
            yield {name: rows[n_rows:] for name, rows in block.items()} if n_rows else block
        n_rows = max(0, n_rows - n)
