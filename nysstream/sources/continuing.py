"""Outputs that are written over several runs of a job: how far they are is noted in its journal."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nysstream.errors import CheckpointError
from nysstream.journal import Entry, current_journal, key_of
from nysstream.sources.locking import sole_writer
from nysstream.sources.staging import partial_of, written_aside
from nysstream.sources.targets import locate, refuse_taken

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from contextlib import ExitStack

    from zarr.abc.store import Store

    from nysstream.journal import Journal
    from nysstream.sources.stream import Blocks

#: Seconds between two notes: each is a few small files.
_SECONDS = 1.0


class Continued:
    """An output of rows, as far as the runs of a job have written it.

    Parameters
    ----------
    journal : Journal
        Of the job.
    aside : pathlib.Path, optional
        Where a local output goes that is written aside; None for what is written in place.
    key : str
        Under which its notes are filed.

    Attributes
    ----------
    token : str
        Tells the directory beside a local output in which it is written; see :func:`written_aside`.
    begun : bool
        Whether an earlier run has begun it.
    done : bool
        Whether it is complete, and where it belongs: there is nothing left to do.
    counts : dict of str to int
        What an earlier run has written: ``rows``, and of sparse rows ``entries``; where rows are added to a
        store, those of the store are among them, and ``before`` counts these.
    """

    def __init__(self, journal: Journal, aside: Path | None, key: str) -> None:
        self._journal, self._key = journal, key
        entry = journal.recall(key)
        found: dict[str, Any] = {} if entry is None else entry.facts
        self.token = str(found.get("token") or secrets.token_hex(4))
        self.counts: dict[str, int] = found.get("counts", {})
        self._complete, self.done = bool(found.get("complete")), bool(found.get("done"))
        lost = aside is not None and not partial_of(aside, self.token).is_dir()
        self.begun = bool(found) and not lost
        if aside is not None and lost:
            self.done = self._complete and aside.exists()
            if not self.done:
                self.counts, self._complete = {}, False
        self._kept, self._noted = self.counts, time.monotonic()

    @property
    def rows(self) -> int:
        """Rows that an earlier run has written."""
        return self.counts.get("rows", 0)

    def begin(self) -> None:
        """Note that it is being written from now on."""
        self._keep(now=True)

    def begin_after(self, name: str, last_token: object, committed: int) -> int:
        """Give the rows of a store to add others after, to a caller who keeps other writers out.

        Parameters
        ----------
        name : str
            Of the store.
        last_token : object
            That of the job which was the last to write to it, published or not.
        committed : int
            Rows that the store has published.

        Raises
        ------
        CheckpointError
            If the store has rows that are not from this job.
        """
        # Whoever wrote last may have written over rows that we had not published.
        ours = self.begun and last_token == self.token
        before = self.counts.get("before", committed)
        if committed != before and not (ours and self._complete and committed == self.rows):
            own = "perhaps" if self._complete else "not"
            message = (
                f"{name} had {before} rows when this append began, and others have appended since: it has "
                f"{committed}, those of this append {own} among them. To append them now, begin anew with "
                "overwrite=True"
            )
            raise CheckpointError(message)
        if not ours:
            self.counts, self._complete = {"before": committed, "rows": committed}, False
            self.begin()
        # Of the chunk that old rows share with new ones the old ones may be all that is noted.
        return max(before, self.rows)

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
        """Note that what was written in place has been published."""
        self.done = True
        self._keep(now=True)

    def _keep(self, *, now: bool = False) -> None:
        facts = {
            "token": self.token,
            "counts": self.counts,
            "complete": self._complete,
            "done": self.done,
        }
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
    aside = place if isinstance(place, Path) and not in_place else None
    return Continued(journal, aside, key_of("rows written", facts))


def entered(
    stack: ExitStack, name: str, place: Path | Store, *, overwrite: bool, continued: Continued | None
) -> tuple[Path | Store, int | None]:
    """Give where an output is to be written, and the rows that earlier runs of the job have left there."""
    token = None if continued is None else continued.token
    inside: Path | Store = place
    if isinstance(place, Path) or continued is None or not continued.begun:
        refuse_taken(name, place, overwrite=overwrite)
    if overwrite or continued is not None:  # else there is nothing that others could be writing to
        # Entered first, it is left last: others are kept out until the output is in its place.
        stack.enter_context(sole_writer(name, place))
    if isinstance(place, Path):
        inside = stack.enter_context(written_aside(place, overwrite=overwrite, token=token))
    if continued is None:
        return inside, None
    if isinstance(inside, Path):
        for path in inside.rglob("*.partial"):  # what a killed run had in hand
            path.unlink(missing_ok=True)
    if not continued.begun:
        continued.begin()
    return inside, continued.rows or None


def without_first(blocks: Iterable[Blocks], n_rows: int) -> Generator[Blocks]:
    """Leave out the first rows of a run of blocks."""
    for block in blocks:
        n = len(next(iter(block.values())))
        if n_rows < n:
            yield {name: rows[n_rows:] for name, rows in block.items()} if n_rows else block
        n_rows = max(0, n_rows - n)
