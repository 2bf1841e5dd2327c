"""The kernel matrix of many rows, as an operator that evaluates it tile by tile."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import like, single_threaded_blas, to_host
from nysstream.journal import Entry, remembered
from nysstream.memory import resident_bytes
from nysstream.operators.base import LinearOperator, Precision
from nysstream.operators.pairwise import Kernel, Rows
from nysstream.sources import as_source
from nysstream.streaming import scheduler
from nysstream.trace import Cost, PassRecord, current_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from nysstream.operators.base import Array
    from nysstream.sources import RowSource

#: Rows on each side of a tile.
TILE_ROWS = 1024


def dense(rows: Any) -> NDArray[Any]:
    """Give rows of a source as an ndarray, whether they are stored sparse or not."""
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)


class KernelOperator(LinearOperator):
    r"""The operator :math:`S K S` with :math:`K_{ij} = k(x_i, x_j)` and S diagonal, by default the identity.

    Parameters
    ----------
    X : array-like or RowSource, shape (n, d)
    kernel : Kernel
    scale : ndarray, shape (n,), optional
        The diagonal of S.
    memory : int
        Bytes for rows that stay in memory, and then for tiles that do. What does not fit is read, or
        evaluated, again for every product.
    tile_rows : int

    Notes
    -----
    Cost: ``n^2 d`` flops per product, where tiles are not in memory, and ``2 n^2 k`` for k vectors. Only the
    tiles on and above the diagonal are evaluated, and each is used twice. Rows that do not fit are read
    ``n / tile_rows / 2`` times. Tiles are shared out to threads, with BLAS on one thread in each; sums are
    float64 and added in one order, however many threads there are.
    """

    psd = True

    def __init__(
        self,
        X: Any,
        kernel: Kernel,
        *,
        scale: NDArray[np.float64] | None = None,
        memory: int = 1 << 30,
        tile_rows: int = TILE_ROWS,
    ) -> None:
        self.source: RowSource = as_source(X)
        self.kernel = kernel
        self.scale = scale
        n, d = self.source.shape
        self.shape = (n, n)
        self.dtype = np.dtype(np.float64)
        self.eps = float(np.finfo(kernel.dtype).eps)
        self.passes = 0
        self.blocks = [slice(a, min(a + tile_rows, n)) for a in range(0, n, tile_rows)]
        self.origin = dense(self.source.read(self.blocks[0])).mean(axis=0, dtype=np.float64)
        self._double = replace(kernel, precision="double")
        row_bytes = d * kernel.row_dtype.itemsize
        self._rows: Rows | None = None
        if n * row_bytes <= memory:
            self._rows = self._all_rows()
            memory -= n * row_bytes
        tile_bytes = tile_rows * tile_rows * kernel.dtype.itemsize
        #: Tiles that may stay in memory.
        self.n_kept = max(0, memory // tile_bytes)
        self._tiles: dict[tuple[int, int], NDArray[Any]] = {}

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors (n, k); ``precision="double"`` evaluates the kernel in float64."""
        host: Any = np.ascontiguousarray(to_host(V), dtype=np.float64)
        if self.scale is not None:
            host = self.scale[:, None] * host
        kernel = self._double if precision == "double" else self.kernel
        began = time.perf_counter()
        trace = current_trace()
        product, recalled = remembered(
            "kernel product",
            (self, kernel.precision, host),
            lambda: self._multiply(host, kernel),
            lambda found: Entry({"product": found}),
            lambda entry: entry.arrays["product"],
        )
        if self.scale is not None:
            product = product * self.scale[:, None]
        self.passes += 1
        if trace is not None:
            seconds = time.perf_counter() - began
            cost = Cost(
                rows=self.shape[0],
                bytes_read=int(self.shape[0] * self.source.row_bytes),
                product_seconds=seconds,
                peak_bytes=resident_bytes(),
            )
            trace.passes.append(
                PassRecord("kernel product", trace.seconds - seconds, seconds, cost, recalled)
            )
        return like(V, product)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (self.source.fingerprint, self.kernel, self.scale)

    def _multiply(self, host: NDArray[np.float64], kernel: Kernel) -> NDArray[np.float64]:
        vectors = host.astype(kernel.dtype, copy=False)
        product = np.zeros_like(host)
        pairs = [(i, j) for i in range(len(self.blocks)) for j in range(i, len(self.blocks))]

        def multiply(pair: tuple[int, int]) -> tuple[Any, Any]:
            i, j = pair
            T = self._tile(i, j, kernel)
            above = T @ vectors[self.blocks[j]]
            return above, None if i == j else T.T @ vectors[self.blocks[i]]

        with single_threaded_blas():
            for (i, j), (above, below) in zip(pairs, in_order(multiply, pairs), strict=True):
                product[self.blocks[i]] += above
                if below is not None:
                    product[self.blocks[j]] += below
        return product

    def trace(self) -> float:
        """Return the trace; for kernels of inner products it costs a read of the rows."""
        total = 0.0
        for block in self.blocks:
            diagonal = self.kernel.diagonal(self.rows(block, self.kernel))
            total += float(diagonal.sum() if self.scale is None else diagonal @ self.scale[block] ** 2)
        return total

    def rows(self, block: slice, kernel: Kernel | None = None) -> Rows:
        """Give a run of rows, ready for the kernel."""
        kernel = kernel or self.kernel
        if self._rows is not None and kernel.row_dtype == self.kernel.row_dtype:
            return self._rows[block]
        return kernel.rows(dense(self.source.read(block)), self.origin)

    def dense(self) -> NDArray[np.float64]:
        """Evaluate the whole matrix in float64, shape (n, n): for small n."""
        K = np.empty(self.shape)
        for i, rows in enumerate(self.blocks):
            for j in range(i, len(self.blocks)):
                tile = self._tile(i, j, self._double)
                K[rows, self.blocks[j]] = tile
                K[self.blocks[j], rows] = tile.T
        return K if self.scale is None else self.scale[:, None] * K * self.scale

    def block_product(self, chosen: NDArray[np.intp], V: NDArray[np.float64]) -> NDArray[np.float64]:
        """Multiply some rows of the matrix, in ascending order, with a block of vectors (n, k).

        Notes
        -----
        Cost: ``2 n b (d + k)`` flops for b rows, and a read of all rows where they are not in memory.
        """
        A = self.gather(chosen)
        W = V if self.scale is None else self.scale[:, None] * V
        vectors = W.astype(self.kernel.dtype, copy=False)

        def multiply(block: slice) -> NDArray[Any]:
            return np.asarray(self.kernel.tile(A, self.rows(block)) @ vectors[block])

        product = np.zeros((len(chosen), V.shape[1]))
        with single_threaded_blas():
            for part in in_order(multiply, self.blocks):
                product += part
        return product if self.scale is None else self.scale[chosen, None] * product

    def block(self, chosen: NDArray[np.intp]) -> NDArray[np.float64]:
        """Evaluate the block of the matrix of some rows, in ascending order, in float64."""
        A = self.gather(chosen)
        K = self.kernel.tile(A, A).astype(np.float64)
        np.fill_diagonal(K, self.kernel.diagonal(A))
        K = (K + K.T) / 2
        return K if self.scale is None else self.scale[chosen, None] * K * self.scale[chosen]

    def gather(self, chosen: NDArray[np.intp]) -> Rows:
        """Give rows by their numbers, ascending, ready for the kernel."""
        if self._rows is not None:
            return self._rows[chosen]
        parts = []
        for block in self.blocks:
            mine = chosen[(chosen >= block.start) & (chosen < block.stop)]
            if mine.size:
                parts.append(dense(self.source.read(block))[mine - block.start])
        return self.kernel.rows(np.concatenate(parts), self.origin)

    def _all_rows(self) -> Rows:
        n, d = self.source.shape
        scaled = np.empty((n, d), self.kernel.row_dtype)
        squares = []
        for block in self.blocks:
            part = self.kernel.rows(dense(self.source.read(block)), self.origin)
            scaled[block] = part.scaled
            squares.append(part.squares)
        return Rows(scaled, np.concatenate(squares))

    def _tile(self, i: int, j: int, kernel: Kernel) -> NDArray[Any]:
        own = kernel == self.kernel
        if own and (i, j) in self._tiles:
            return self._tiles[i, j]
        A = self.rows(self.blocks[i], kernel)
        T = kernel.tile(A, A if i == j else self.rows(self.blocks[j], kernel))
        if i == j:
            np.fill_diagonal(T, kernel.diagonal(A))
        if own and len(self._tiles) < self.n_kept:
            self._tiles[i, j] = T
        return T


def in_order(function: Any, items: Iterable[Any]) -> Iterator[Any]:
    """Map a function over items on a few threads; results come in order, few of them waiting."""
    n_threads = scheduler()[1]
    if n_threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for item in items:
                if len(waiting) >= 2 * n_threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
