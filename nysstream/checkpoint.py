"""Journals on disk or in object storage, from which a run that was cut short goes on."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.sync import sync

from nysstream.errors import CheckpointError, InputError, OutputExistsError, SourceError
from nysstream.interrupts import interrupts_held
from nysstream.journal import Entry, Journal, journaling, key_of
from nysstream.sources.bundle import nbytes_of, read_bundle, write_bundle
from nysstream.sources.checking import reason
from nysstream.sources.locations import local_path
from nysstream.sources.locking import sole_run
from nysstream.sources.remote import advice_on, explained
from nysstream.sources.staging import written_aside
from nysstream.sources.targets import first_of, locate
from nysstream.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zarr.abc.store import Store


FORMAT, VERSION = "nysstream-checkpoint", 1
#: Bytes that may wait to be written.
_WAITING = 256 << 20


@contextlib.contextmanager
def checkpointing(
    location: str | os.PathLike[str], *, resume: bool = False, overwrite: bool = False, every: float = 0.0
) -> Iterator[Checkpoint]:
    """Keep what is computed inside the block, so that it can be gone on with after a crash.

    Parameters
    ----------
    location : str or path
        Directory, or URL in object storage; a Zarr group.
    resume : bool, default False
        Go on from what is there: the same block, run again, recalls the passes that were finished. Where
        nothing is there, begin.
    overwrite : bool, default False
        Begin anew where a checkpoint exists, unless ``resume`` goes on from it.
    every : float, default 0
        Seconds between two writes at least; 0 writes after every pass. A process that is killed outright
        loses what it had not written; an exception or an interrupt loses nothing.

    Yields
    ------
    Checkpoint

    Raises
    ------
    OutputExistsError
        If something is there and neither ``resume`` nor ``overwrite`` was given, or if it is no checkpoint.
    CheckpointError
        If the place cannot be written, or another process is using it; or if the checkpoint is damaged, or
        is of other data or settings, when that shows.

    Notes
    -----
    Cost: the sums of every pass are written once: a few vectors for an iteration of PCG, a p x p matrix
    where Gram or Hessian matrices are summed. Resumed runs give the same bits as uninterrupted ones on the
    same kind of machine, and repeat at most the pass that was cut short, and the algebra between passes.
    Conversions, appends, and predictions that are written, go on after the rows that an earlier run wrote.

    On a local disk a lock, ``.<name>.running`` beside the directory, keeps other processes out; the kernel
    releases it when this one ends, however it does. In object storage nothing does: give each job a place
    of its own.

    ``random_state`` must be a number. Limits, ``tol``, ``memory`` and the Dask scheduler may change between
    runs; other settings and the data may not.

    Examples
    --------
    >>> with checkpointing("fit.checkpoint", resume=True):  # doctest: +SKIP
    ...     model = Ridge(alpha=1.0).fit(X, y)
    """
    with contextlib.ExitStack() as stack:
        _keep_others_out(stack, *locate(location))
        checkpoint = Checkpoint(location, resume=resume, overwrite=overwrite, every=every)
        try:
            with journaling(checkpoint):
                yield checkpoint
        finally:
            with interrupts_held():  # a second one must not cost what the first left to be written
                checkpoint.flush()


def _keep_others_out(stack: contextlib.ExitStack, name: str, place: Path | Store) -> None:
    """Let no other process use a checkpoint on a local disk meanwhile.

    In object storage the lock of a process that was killed could not be told from that of a living one.
    """
    if not isinstance(place, Path) or not place.parent.is_dir():
        return
    try:
        stack.enter_context(sole_run(name, place))
    except SourceError as error:
        message = f"the checkpoint {name} cannot be written: {error}"
        raise CheckpointError(message) from error


class Checkpoint(Journal):
    """A Zarr group with one array of bytes for each entry, named by its key.

    Parameters
    ----------
    location, resume, overwrite, every
        See :func:`checkpointing`.

    Attributes
    ----------
    resumed : bool
        Whether an earlier run had begun it.
    """

    def __init__(
        self, location: str | os.PathLike[str], *, resume: bool, overwrite: bool, every: float
    ) -> None:
        super().__init__()
        self.name, self._place = locate(location)
        self.every = every
        self._waiting: dict[str, tuple[str, Entry]] = {}
        self._waiting_bytes = 0
        self._written = time.monotonic()
        self._lock = threading.RLock()  # kernel rows are evaluated by several threads
        self._n_jobs = 0
        found = self._find()
        if found is not None and not (resume or overwrite):
            message = f"{self.name} exists: resume=True goes on from it, overwrite=True begins anew"
            raise OutputExistsError(message)
        self.resumed = found is not None and resume
        if self.resumed:
            assert found is not None
            self._attributes = found
        else:
            self._begin(anew=found is not None)

    @property
    def identity(self) -> str:
        """Tell the job from all others, whatever they are of."""
        return str(self._attributes.get("id", self.name))

    def recall(self, key: str) -> Entry | None:
        """Give an entry, after making sure that it is whole."""
        with self._lock:
            if key in self._waiting:
                return self._waiting[key][1]
        if not self.resumed:
            return None
        try:
            found = read_bundle(zarr.open_array(self._store, path=self._path(key), mode="r"))
        except (FileNotFoundError, zarr.errors.ArrayNotFoundError):
            return None
        except Exception as error:  # each kind of damage has errors of its own
            # What is short or out of reach now is no reason to remove anything.
            if isinstance(error, (OSError, MemoryError)) or advice_on(error) is not None:
                message = f"the checkpoint {self.name} cannot be read: {explained(error)}"
                raise CheckpointError(message) from error
            raise self._damaged(key, reason(error)) from error
        if found is None:
            return None  # its last write did not happen
        self.n_recalled += 1
        return Entry(*found)

    def keep(self, key: str, name: str, entry: Entry) -> None:
        """Keep an entry; it is written now, or when the next write is due."""
        with self._lock:
            self._waiting[key] = (name, entry)
            self._waiting_bytes += sum(nbytes_of(value) for value in entry.arrays.values())
            self.n_kept += 1
            due = time.monotonic() - self._written >= self.every or self._waiting_bytes > _WAITING
        if due:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        with self._lock:
            while self._waiting:
                key = next(iter(self._waiting))
                self._write(key, *self._waiting[key])
                del self._waiting[key]
            self._waiting_bytes = 0
            self._written = time.monotonic()

    def declare(self, facts: dict[str, Any]) -> None:
        """Compare with the job that the checkpoint is of."""
        job = f"job-{self._n_jobs}"
        self._n_jobs += 1
        if job not in self._attributes:  # unless another run, in object storage, has declared it meanwhile
            self._attributes = self._find() or self._attributes
        known = self._attributes.get(job)
        if known is None:
            self._note({job: facts})
            return
        different = sorted(key for key in known.keys() | facts.keys() if known.get(key) != facts.get(key))
        if different:
            shown = "; ".join(f"{key} was {known.get(key)}, now {facts.get(key)}" for key in different)
            message = (
                f"the checkpoint {self.name} is of another job: {shown}. Give what it began with, or begin "
                "anew with overwrite=True"
            )
            raise CheckpointError(message)

    def wrote(self, output: str) -> bool:
        """Whether an earlier run of the job wrote this output, which a later one may replace."""
        return _absolute(output) in self._attributes.get("outputs", [])

    def note_outputs(self, outputs: Iterable[str | Path]) -> None:
        """Remember what this job wrote."""
        known = {*self._attributes.get("outputs", []), *(_absolute(output) for output in outputs)}
        self._note({"outputs": sorted(known)})

    # Files.

    @property
    def _store(self) -> Any:
        return str(self._place) if isinstance(self._place, Path) else self._place

    def _path(self, key: str) -> str:
        return f"entries/{key}"

    def _find(self) -> dict[str, Any] | None:
        """Give the attributes of the checkpoint, or None where nothing is."""
        local = isinstance(self._place, Path)
        if local and not os.path.lexists(self._place):  # type: ignore[arg-type]
            return None
        try:
            group = zarr.open_group(self._store, mode="r", use_consolidated=False)
            attributes: dict[str, Any] = dict(group.attrs)
        except FileNotFoundError as error:
            self._refuse_strangers(error)
            return None
        except Exception as error:
            message = f"the checkpoint {self.name} cannot be opened: {explained(error)}"
            raise CheckpointError(message) from error
        if attributes.get("format") != FORMAT:
            message = f"{self.name} is there and is no checkpoint: choose another place"
            raise OutputExistsError(message)
        if attributes.get("version") != VERSION:
            message = (
                f"the checkpoint {self.name} has format version {attributes.get('version')!r}, this "
                f"nysstream writes {VERSION}: begin anew with overwrite=True"
            )
            raise CheckpointError(message)
        return attributes

    def _refuse_strangers(self, error: Exception) -> None:
        """Leave alone what lies where a checkpoint should be."""
        inside = ""
        if not isinstance(self._place, Path):
            try:
                found = first_of(self._place)
            except Exception as unlisted:
                message = f"the checkpoint {self.name} cannot be written: {explained(unlisted)}"
                raise CheckpointError(message) from unlisted
            if found is None:
                return
            inside = f", but holds {found}"
        message = f"{self.name} is there and is no checkpoint{inside}: choose another place"
        raise OutputExistsError(message) from error

    def _begin(self, *, anew: bool) -> None:
        about = {"format": FORMAT, "version": VERSION, "nysstream": __version__}
        self._attributes = {**about, "id": secrets.token_hex(8)}
        try:
            if isinstance(self._place, Path):
                with written_aside(self._place, overwrite=anew) as partial:
                    zarr.create_group(partial, zarr_format=3, attributes=self._attributes)
            else:
                if anew:
                    # In this order: what a process leaves that is killed here is a checkpoint, or nothing.
                    sync(self._place.delete_dir("entries"))
                    sync(self._place.delete("zarr.json"))
                zarr.create_group(self._place, zarr_format=3, attributes=self._attributes)
        except Exception as error:
            message = f"the checkpoint {self.name} cannot be written: {explained(error)}"
            raise CheckpointError(message) from error

    def _note(self, more: dict[str, Any]) -> None:
        self._attributes |= more
        try:
            group = zarr.open_group(self._store, mode="r+", use_consolidated=False)
            group.update_attributes(more)
        except Exception as error:
            raise self._unwritable(error) from error

    def _write(self, key: str, name: str, entry: Entry) -> None:
        try:
            if isinstance(self._place, Path):
                target = self._place / self._path(key)
                target.parent.mkdir(exist_ok=True)
                with written_aside(target, overwrite=True) as partial:
                    write_bundle(str(partial), None, entry.arrays, entry.facts, name=name)
            else:
                write_bundle(self._place, self._path(key), entry.arrays, entry.facts, name=name)
        except Exception as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self.name} cannot be written: {explained(error)}. What was written before is "
            "whole: make room or mend the place, and go on with resume=True"
        )

    def _damaged(self, key: str, why: str) -> CheckpointError:
        where = f"{self.name}/{self._path(key)}"
        return CheckpointError(
            f"the checkpoint {self.name} is damaged: {where}: {why}. Remove {where} and that pass is "
            "repeated, or begin anew with overwrite=True"
        )


def _absolute(output: str | Path) -> str:
    path = local_path(str(output))
    return str(output) if path is None else os.path.abspath(path)


def settings_of(estimator: Any) -> dict[str, str]:
    """Describe the settings of an estimator that may not change within a job.

    Raises
    ------
    InputError
        If the random numbers are not fixed.
    """
    seed = estimator.get_params(deep=False).get("random_state", 0)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        message = f"random_state={seed!r}: a checkpoint needs the same numbers in every run; give a number"
        raise InputError(message)
    return lasting_settings(estimator)


_MAY_CHANGE = {"max_passes", "time_limit", "tol", "memory", "callback"}


def lasting_settings(estimator: Any) -> dict[str, str]:
    """Describe the settings of an estimator, but for limits and the like."""
    settings = sorted(estimator.get_params(deep=False).items())
    return {key: _described(value) for key, value in settings if key not in _MAY_CHANGE}


def _described(value: Any) -> str:
    """Describe a setting: arrays, of which only a part is printed, by a digest."""
    if not hasattr(value, "__array__") or isinstance(value, np.generic):
        return repr(value)
    values = np.asarray(value)
    return f"{type(value).__name__} of shape {values.shape}, {key_of(values)[:12]}"
