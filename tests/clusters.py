"""A Dask cluster of real processes on this machine, started as a batch job starts one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Cluster:
    """A scheduler process, and worker processes that come and go."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes = {}
        self._count = 0
        self._start(
            "scheduler", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show", "--no-dashboard"
        )
        self._until(self.file.exists)

    def add_worker(self, memory="4GiB"):
        """Start a worker of one thread, and give its name."""
        self._count += 1
        name = f"worker-{self._count}"
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", memory)
        self._start(name, "worker", "--name", name, "--host", "127.0.0.1", *options)
        return name

    def kill(self, name):
        """Kill a process outright."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self):
        """End all processes."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()

    def said(self):
        """Give what the processes wrote."""
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log")))

    def _start(self, name, *command):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        with (self.folder / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *command, "--scheduler-file", str(self.file)],
                cwd=self.folder, env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    def _until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)
