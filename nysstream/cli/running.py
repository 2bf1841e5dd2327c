"""How a command runs: its scheduler, its exit code, and what it says when something goes wrong."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.config
import typer
from sklearn.exceptions import ConvergenceWarning

from nysstream.checkpoint import checkpointing
from nysstream.cli.options import OPTIONS, signature
from nysstream.errors import (
    InputError,
    MemoryBudgetError,
    NysstreamError,
    NysstreamWarning,
    OutputExistsError,
    SourceError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from nysstream.checkpoint import Checkpoint
    from nysstream.cli.options import Option

#: Exit codes. A stop before convergence keeps the best result.
CONVERGED, FAILED, USAGE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130
_USAGE_ERRORS = (InputError, OutputExistsError, MemoryBudgetError, SourceError)
DEBUG = "NYSSTREAM_DEBUG"
#: How settings of the Python interface are spelled here. Feature maps have a random_state of their own,
#: which is no option.
_SPELLED = {
    name: option.spelled for name, option in OPTIONS.items() if option.flag and name != "random_state"
} | {name: "--" + name.replace("_", "-") for name in ("chunk_rows", "codec", "columns", "dtype", "shuffle")}


def command(
    function: Callable[..., int], settings: Mapping[str, Option] | None = None
) -> Callable[..., None]:
    """Make a command of a function that returns an exit code: errors become one line on stderr.

    Parameters
    ----------
    function : callable
        Its parameters are options, as :func:`nysstream.cli.options.signature` says.
    settings : mapping of str to Option, optional
        What ``**settings`` of the function stands for.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        with _warnings_on_one_line(), _termination_as_interrupt():
            try:
                code = function(*args, **kwargs)
            except NysstreamError as error:
                _complain(in_options(str(error)))
                code = USAGE if isinstance(error, _USAGE_ERRORS) else FAILED
            except Interrupted as interrupted:
                _complain(f"interrupted; what was done is in {interrupted}: go on with --resume")
                code = STOPPED
            except KeyboardInterrupt:
                _complain("interrupted; nothing was written")
                code = INTERRUPTED
            except BrokenPipeError:  # whoever read our output has stopped
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                code = FAILED
            except Exception as error:
                _complain(f"{type(error).__name__}: {error}\nSet {DEBUG}=1 to see where this comes from.")
                code = FAILED
        raise typer.Exit(code)

    declared = signature(function, settings or {})
    run.__signature__ = declared  # type: ignore[attr-defined]
    run.__annotations__ = {name: item.annotation for name, item in declared.parameters.items()}
    return run


def in_options(message: str) -> str:
    """Write settings as this interface spells them: ``memory='2GiB'`` becomes ``--memory 2GiB``."""
    for name, option in _SPELLED.items():
        message = re.sub(rf"\b{name}=(True|False)\b", option, message)
        message = re.sub(rf"""\b{name}=(["'])(.*?)\1""", rf"{option} \2", message)
        message = re.sub(rf"\b{name}=(?=\S)", f"{option} ", message)
        if "_" in name:
            message = re.sub(rf"\b{name}\b", option, message)
    return message


@dataclass(frozen=True)
class Outputs:
    """What a command may replace: all with ``--overwrite``, else what an earlier run of its job wrote."""

    overwrite: bool
    journal: Checkpoint | None = None

    def replaceable(self, output: str | Path) -> bool:
        """Whether an output may take the place of another."""
        return self.overwrite or (self.journal is not None and self.journal.wrote(str(output)))

    def announced(self, *outputs: str | Path | None) -> list[bool]:
        """Say for each what :meth:`replaceable` says, and remember that it is about to be written.

        A run that is killed while it writes, or just after, has told the next one that these are its own.
        """
        found = [output is not None and self.replaceable(output) for output in outputs]
        self.written(*outputs)
        return found

    def written(self, *outputs: str | Path | None) -> None:
        """Remember what was written, so that a later run of the job may replace it."""
        if self.journal is not None:
            self.journal.note_outputs(output for output in outputs if output is not None)


@contextmanager
def checkpointed(
    location: str | None, every: float | None, *, resume: bool, overwrite: bool
) -> Iterator[Outputs]:
    """Keep a checkpoint of what runs inside the block, if a place for it is given.

    An interrupt inside the block, by Ctrl-C or SIGTERM, writes the checkpoint first.

    Raises
    ------
    InputError
        If options are given that mean nothing without a place.
    """
    if location is None:
        if resume or every is not None:
            message = "--resume and --checkpoint-every are about a checkpoint: give --checkpoint DIR too"
            raise InputError(message)
        yield Outputs(overwrite)
        return
    try:
        with checkpointing(location, resume=resume, overwrite=overwrite, every=every or 0.0) as journal:
            yield Outputs(overwrite, journal)
    except KeyboardInterrupt as error:
        raise Interrupted(location) from error


class Interrupted(Exception):
    """A run was interrupted and has left a checkpoint."""


@contextmanager
def scheduled(
    address: str | None,
    threads: int | None,
    scheduler_file: Path | None = None,
    local_cluster: int | None = None,
) -> Iterator[None]:
    """Run the passes inside the block on threads, in this thread, or on a cluster.

    Parameters
    ----------
    address : str, optional
        ``"threads"``, ``"synchronous"``, or the address of a Dask scheduler.
    threads : int, optional
        Number of threads, by default one per core; of each worker of a local cluster.
    scheduler_file : Path, optional
        File in which a Dask scheduler has left its address.
    local_cluster : int, optional
        Number of worker processes to start on this machine, for the time of the block.

    Raises
    ------
    InputError
        If these contradict each other, the address means nothing, or ``distributed`` is not installed.
    SourceError
        If the cluster does not answer.
    """
    places = {
        "--scheduler": address,
        "--scheduler-file": scheduler_file,
        "--local-cluster": local_cluster,
    }
    given = [f"{flag} {value}" for flag, value in places.items() if value is not None]
    if len(given) > 1:
        message = f"{' and '.join(given)}: passes run in one place, so give one of them"
        raise InputError(message)
    if (threads is not None and address not in (None, "threads")) or (threads and scheduler_file):
        message = (
            f"--threads {threads} goes with --scheduler threads or --local-cluster, not with {given[0]}: the "
            "workers of a cluster have threads of their own"
        )
        raise InputError(message)
    if not given or address in ("threads", "synchronous"):
        settings: dict[str, Any] = {} if address is None else {"scheduler": address}
        if threads is not None:
            settings |= {"scheduler": "threads", "num_workers": threads}
        with dask.config.set(settings):
            yield
        return
    if address is not None and "://" not in address:
        message = (
            f"--scheduler {address} is not known: use threads, synchronous, or an address such as tcp://..."
        )
        raise InputError(message)
    if importlib.util.find_spec("distributed") is None:
        message = f"{given[0]} needs another package: pip install 'nysstream[cluster]'"
        raise InputError(message)
    with ExitStack() as stack:
        try:
            client = _client(stack, address, threads, scheduler_file, local_cluster)
        except (OSError, ValueError) as error:
            message = f"{given[0]} does not answer: {error}"
            raise SourceError(message) from error
        with client:
            yield


def _client(
    stack: ExitStack,
    address: str | None,
    threads: int | None,
    scheduler_file: Path | None,
    local_cluster: int | None,
) -> Any:
    """Connect to a cluster, or start one that ends with the stack."""
    from distributed import Client, LocalCluster

    if local_cluster is None:
        if scheduler_file is not None and not scheduler_file.is_file():
            message = "there is no such file; has the scheduler been started with it?"
            raise FileNotFoundError(message)
        return Client(address, scheduler_file=scheduler_file, timeout="10s")  # type: ignore[no-untyped-call]
    stack.enter_context(dask.config.set({"distributed.worker.daemon": True}))
    cluster = stack.enter_context(
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=local_cluster,
            threads_per_worker=threads or max(1, (os.cpu_count() or 1) // local_cluster),
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )
    )
    return Client(cluster)  # type: ignore[no-untyped-call]


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {in_options(' '.join(str(message).split()))}", file=sys.stderr)

    with warnings.catch_warnings():
        for category in (NysstreamWarning, ConvergenceWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = show
        yield


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, by which batch systems end jobs, do what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        # Shells start what runs in the background with Ctrl-C ignored; batch scripts do so, too.
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complain(message: str) -> None:
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
