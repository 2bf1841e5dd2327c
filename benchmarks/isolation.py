"""One measurement, one process: its own memory, its own BLAS, and an end if it takes too long."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Finished:
    """How a process ended.

    Attributes
    ----------
    code : int
        Exit status; negative for the signal that ended it.
    output, errors : str
    seconds : float
        Of the process, imports and loading included.
    peak_bytes : int
        Its largest resident memory, as seen from outside.
    timed_out : bool
    """

    code: int
    output: str
    errors: str
    seconds: float
    peak_bytes: int
    timed_out: bool

    def last_words(self) -> str:
        """Give the last line on standard error, or what ended the process."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        if self.code == -signal.SIGKILL and not self.timed_out:
            return "killed, probably for want of memory"
        return lines[-1] if lines else f"exit status {self.code}"


def run(command: Sequence[str], *, timeout: float | None = None) -> Finished:
    """Run a command from the root of the project, and watch it.

    The kernel's ``ru_maxrss`` of a child may be that of the parent which started it, so the largest
    resident memory is polled instead; it never falls, so that nothing but the last moment is missed.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            list(command), stdout=output, stderr=errors, cwd=ROOT, env=environment, start_new_session=True
        )
        peak, timed_out = 0, False
        before = signal.signal(signal.SIGTERM, _leave)  # or the child would outlive us
        try:
            while process.poll() is None:
                peak = max(peak, high_water(process.pid))
                if timeout is not None and time.perf_counter() - began > timeout:
                    timed_out = True
                    break
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            signal.signal(signal.SIGTERM, before)
        seconds = time.perf_counter() - began
        output.seek(0)
        errors.seek(0)
        return Finished(code, output.read(), errors.read(), seconds, peak, timed_out)


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def high_water(pid: int | str = "self") -> int:
    """Read the largest resident memory of a process since its program began; 0 once it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0
