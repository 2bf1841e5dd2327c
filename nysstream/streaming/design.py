"""The design matrix: rows at rest, seen as the n x p matrix of the problem."""

from __future__ import annotations

import functools
import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse
import xxhash

from nysstream.arrays import Device, get_device
from nysstream.errors import InputError
from nysstream.features import FeatureMap, Identity, to_json
from nysstream.sources import RowSource, as_source
from nysstream.streaming.centering import Centering
from nysstream.streaming.partition import Partition, cut_blocks, cut_partitions
from nysstream.trace import current_trace

if TYPE_CHECKING:
    from nysstream.streaming.reduction import Reduction

Precision = Literal["single", "double"]

#: Bytes of a tile that stays in the second-level cache, so that rows come from memory once.
_TILE_BYTES = 2 << 20
#: Most rows of a thin tile. BLAS may add up its products one after the other in float32, which
#: over many rows costs digits.
_MOST_ROWS = 1 << 13
#: Bound on the bytes of a tile that is taller for the sake of arithmetic.
_TALL_BYTES = 64 << 20


_IDENTITY = Identity()


@dataclass(frozen=True)
class DesignMatrix:
    """Source, targets, weights and feature map, seen as an ``n x p`` matrix.

    Nothing is read until a pass runs.

    Parameters
    ----------
    source : RowSource or array-like, shape (n, d)
        Anything :func:`nysstream.sources.as_source` accepts.
    target : RowSource or array-like, shape (n,) or (n, q), optional
    weight : RowSource or array-like, shape (n,), optional
        Non-negative; one per row.
    features : FeatureMap, default identity
    centering : Centering, optional
        Set once the means are known.
    precision : {"single", "double"}
        ``"single"`` multiplies float32 (and narrower) data, and random features, in float32; sums
        are float64 always. ``"double"`` upcasts on the device.
    device : str or Device, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a CUDA device where there is one.
    cache_bytes : int, default 0
        Bytes of decoded blocks to keep resident in each process.
    max_tasks : int, optional
        Most tasks that a threaded scheduler may run at once, so that their buffers fit.
    task_threads : int, default 1
        Threads that each of them may use where a reduction can share out its work.

    Raises
    ------
    InputError
        If the shapes do not belong together, X is a vector, or there are no rows or columns.
    """

    source: RowSource
    target: RowSource | None = None
    weight: RowSource | None = None
    _: KW_ONLY
    features: FeatureMap = _IDENTITY
    centering: Centering | None = None
    precision: Precision = "single"
    device: str | Device | None = None
    cache_bytes: int = 0
    max_tasks: int | None = None
    task_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("source", "target", "weight"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_source(value))
        source = self.source
        if source.vector:
            message = f"{source.name} has one dimension; X must have two: reshape it to (n, 1) or (1, p)"
            raise InputError(message)
        n_rows, n_columns = source.shape
        if n_rows == 0 or n_columns == 0:
            message = f"{source.name} has {n_rows} rows and {n_columns} columns: nothing to do"
            raise InputError(message)
        for kind, other in (("targets", self.target), ("weights", self.weight)):
            if other is not None and other.sparse:
                message = f"{other.name} is sparse; {kind} must be dense: pass {kind}.toarray()"
                raise InputError(message)
            if other is not None and other.shape[0] != n_rows:
                message = f"{other.name} holds {other.shape[0]} {kind} for the {n_rows} rows of {source.name}"
                raise InputError(message)
        if self.weight is not None and self.weight.shape[1] != 1:
            message = f"{self.weight.name} has {self.weight.shape[1]} columns; weights are one number per row"
            raise InputError(message)
        if source.sparse and not self.features.accepts_sparse and not isinstance(self.features, Identity):
            message = f"{type(self.features).__name__} does not accept the sparse rows of {source.name}"
            raise InputError(message)

    @functools.cached_property
    def shape(self) -> tuple[int, int]:
        """Rows, and columns after the feature map."""
        return self.source.shape[0], self.features.n_outputs(self.source.shape[1])

    @property
    def n_targets(self) -> int:
        """Columns of the target."""
        return 0 if self.target is None else self.target.shape[1]

    @property
    def sparse(self) -> bool:
        """Whether tiles are sparse after the feature map."""
        return self.source.sparse and isinstance(self.features, Identity)

    @functools.cached_property
    def block_dtype(self) -> np.dtype[Any]:
        """Dtype in which rows are buffered and cached: the narrowest that holds the stored values."""
        stored = self.source.dtype
        narrow = np.can_cast(stored, np.float32, "safe")
        return np.dtype(np.float32 if narrow else np.float64)

    @functools.cached_property
    def dtype(self) -> np.dtype[Any]:
        """Dtype in which tiles are multiplied."""
        if self.precision == "double":
            return np.dtype(np.float64)
        if isinstance(self.features, Identity):
            return self.block_dtype
        return np.dtype(np.float32)

    @property
    def eps(self) -> float:
        """Relative rounding error of the products."""
        return float(np.finfo(self.dtype).eps)

    @functools.cached_property
    def partitions(self) -> tuple[Partition, ...]:
        """The units of scheduling, in row order."""
        return cut_partitions(self.source)

    @functools.cached_property
    def block_rows(self) -> int:
        """Rows of the largest block."""
        return max(b - a for a, b in cut_blocks(self.source))

    @functools.cached_property
    def block_bytes(self) -> int:
        """Bytes of the largest block in its buffer; on average, where rows are sparse."""
        if self.source.sparse:
            return int(self.block_rows * self.source.row_bytes)
        return self.block_rows * self.source.shape[1] * self.block_dtype.itemsize

    @property
    def row_bytes(self) -> float:
        """Decoded bytes of one row of the source."""
        return self.source.row_bytes

    @functools.cached_property
    def cache_key(self) -> str:
        """What cached blocks are filed under."""
        return f"{self.source.fingerprint}-{self.block_dtype}"

    @property
    def buffered_bytes(self) -> int:
        """Bytes of all rows as they are buffered; 0 where they need no buffers, nor a cache."""
        if self.source.resident or self.source.sparse:
            return 0
        return self.shape[0] * self.source.shape[1] * self.block_dtype.itemsize

    @functools.cached_property
    def fingerprint(self) -> str:
        """Identity of the data and of what is done to a row: equal means equal passes."""
        parts = [self.source, self.target, self.weight]
        text = "/".join("" if part is None else part.fingerprint for part in parts)
        return xxhash.xxh3_128_hexdigest(f"{text}/{sorted(to_json(self.features).items())}".encode())

    def get_device(self) -> Device:
        """Return the device on which tiles are computed, in this process."""
        return get_device(self.device)

    def with_precision(self, precision: Precision) -> DesignMatrix:
        """Return the same matrix, multiplied in another precision."""
        return self if precision == self.precision else replace(self, precision=precision)

    def with_tasks(self, tasks: int, threads: int) -> DesignMatrix:
        """Return the same matrix for so many tasks at once, which share so many threads."""
        return replace(self, max_tasks=tasks, task_threads=max(1, threads // tasks))

    def with_cache(self, nbytes: int) -> DesignMatrix:
        """Return the same matrix, of which so many bytes of blocks stay resident that are not so already."""
        return replace(self, cache_bytes=0 if self.source.resident else nbytes)

    def restrict(self, rows: slice) -> DesignMatrix:
        """Return a contiguous run of rows as a design of its own."""
        target = None if self.target is None else self.target.restrict(rows)
        weight = None if self.weight is None else self.weight.restrict(rows)
        return replace(self, source=self.source.restrict(rows), target=target, weight=weight)

    def tile_rows(self, *reductions: Reduction) -> int:
        """Count the rows of a tile.

        A function of p and of the number of columns only, so that sums do not depend on where or
        within what memory they run.
        """
        if self.sparse:
            return self.block_rows
        row_bytes = self.shape[1] * self.dtype.itemsize
        rows = max(32, min(_MOST_ROWS, _TILE_BYTES // row_bytes))
        tall = max((reduction.tall_rows(self) for reduction in reductions), default=0)
        rows = max(rows, min(tall, _TALL_BYTES // row_bytes))
        return min(rows, self.block_rows)

    def sample_rows(self, n_rows: int = 1024, n_runs: int = 8, *, keep_sparse: bool = False) -> Any:
        """Read short runs of rows spread evenly over the data.

        Returns
        -------
        ndarray, shape (at most n_rows, d)
            Stored rows, in float64, before the feature map; a csr_array where they are sparse and that was
            asked for.

        Notes
        -----
        Cost: ``n_runs`` chunks; their bytes are recorded in the trace beside the passes.
        """
        total = self.shape[0]
        run = math.ceil(min(n_rows, total) / min(n_runs, total))
        starts = np.unique(np.linspace(0, total - run, min(n_runs, total)).astype(int))
        pieces = [self.source.read(slice(int(start), min(int(start) + run, total))) for start in starts]
        if keep_sparse and self.source.sparse:
            stack: Any = scipy.sparse.vstack
            sample = stack(pieces, format="csr").astype(np.float64)
        else:
            dense = [rows if isinstance(rows, np.ndarray) else rows.toarray() for rows in pieces]
            sample = np.concatenate([np.asarray(rows, dtype=np.float64) for rows in dense])
        trace = current_trace()
        if trace is not None:
            trace.sampled_bytes += int(sample.shape[0] * self.row_bytes)
        return sample
