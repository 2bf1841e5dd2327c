"""What kernel machines share: the kernel's settings, rows in memory, predictions, files."""

from __future__ import annotations

import numbers
import warnings
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from nysstream.arrays import single_threaded_blas
from nysstream.errors import InputError
from nysstream.estimators.model_file import save
from nysstream.estimators.predicting import Predicting
from nysstream.estimators.results import FitResult
from nysstream.features.bandwidth import ROWS_COMPARED, median_distance
from nysstream.memory import ALLOWANCE, Budget, parse_memory, resident_bytes
from nysstream.operators.kernel import TILE_ROWS, dense, in_order
from nysstream.operators.pairwise import Kernel, Rows
from nysstream.solvers import Status
from nysstream.sources import as_source
from nysstream.streaming import scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.sources import RowSource
    from nysstream.trace import Trace

#: Matrices of no more rows than this are evaluated in double precision, whatever is asked.
_SMALL = 2048
_ALIASES = {"gaussian": "rbf", "polynomial": "poly"}
_SUPPORT_ROWS = 4096


@dataclass(eq=False, repr=False)
class KernelMachine(Predicting, BaseEstimator):
    """Settings, predictions and files of estimators that are expansions in a kernel."""

    _: KW_ONLY
    kernel: str = "rbf"
    gamma: Any = "scale"
    degree: float = 3
    coef0: float = 0.0
    tol: float = 1e-3
    time_limit: float | None = None
    precision: str = "single"
    memory: Any = None
    random_state: Any = 0
    callback: Any = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _expansion(self) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
        """Give the rows, shape (m, d), their coefficients, shape (m, k), and the intercepts, shape (k,)."""
        raise NotImplementedError

    def _n_predictors(self) -> int:
        """Count the values that are predicted for a row."""
        return int(self._expansion()[2].size)

    def _check_settings(self) -> None:
        name: Any = _ALIASES.get(self.kernel, self.kernel) if isinstance(self.kernel, str) else self.kernel
        gamma: Any = self.gamma
        words = ("scale", "auto", "median")
        if (
            gamma is not None
            and gamma not in words
            and (isinstance(gamma, (bool, str)) or not isinstance(gamma, numbers.Real))
        ):
            message = f"gamma={gamma!r}: give a positive number, None, or one of {', '.join(words)}"
            raise InputError(message)
        number = float(gamma) if isinstance(gamma, numbers.Real) else 1.0
        if self.precision not in ("single", "double"):
            message = f"precision={self.precision!r} is not known: use 'single' or 'double'"
            raise InputError(message)
        Kernel(name, number, self.degree, self.coef0)
        tol: Any = self.tol
        if not isinstance(tol, numbers.Real) or not 0 < float(tol) < 1:
            message = f"tol={tol!r} is out of range: give a number between 0 and 1"
            raise InputError(message)
        seconds: Any = self.time_limit
        if seconds is not None and (not isinstance(seconds, numbers.Real) or not float(seconds) > 0):
            message = f"time_limit={seconds!r}: give a positive number of seconds"
            raise InputError(message)

    def _settle_kernel(self, source: RowSource) -> Kernel:
        """Turn the settings into a kernel; ``gamma`` may need a read of the rows, or a sample."""
        name: Any = _ALIASES.get(self.kernel, self.kernel)
        n, d = source.shape
        gamma: Any = self.gamma
        if gamma is None or gamma == "auto" or name == "linear":
            gamma = 1.0 / d
        elif gamma == "scale":
            variance = _variance(source)
            gamma = 1.0 / (d * variance) if variance > 0 else 1.0
        elif gamma == "median":
            step = max(1, n // ROWS_COMPARED)
            rows = [dense(source.read(slice(i, i + 1))) for i in range(0, n, step)]
            distance = median_distance(
                np.concatenate(rows), "cityblock" if name == "laplacian" else "euclidean"
            )
            gamma = 1.0 / distance if name == "laplacian" else 0.5 / distance**2
        return self._kernel(n, float(gamma))

    def _kernel(self, n: int, gamma: float = 1.0) -> Kernel:
        """Make the kernel of n rows; what it holds does not depend on ``gamma``."""
        name: Any = _ALIASES.get(self.kernel, self.kernel)
        precision: Any = "double" if n <= _SMALL else self.precision
        return Kernel(name, gamma, self.degree, self.coef0, precision)

    def _budget(self, needs: dict[str, int], knob: str) -> Budget:
        base = {"process": resident_bytes(), "allowance": ALLOWANCE}
        return Budget(parse_memory(self.memory), base | needs, knob)

    def _finish(
        self,
        status: Status,
        stats: dict[str, Any],
        history: list[dict[str, Any]],
        trace: Trace,
        budget: Budget,
    ) -> None:
        """Keep how the fit went, and warn if it did not converge."""
        total = trace.total
        known = {
            "status": status.name.lower(),
            "passes": len(trace.passes),
            "seconds": trace.seconds,
            "bytes_read": total.bytes_read + trace.sampled_bytes,
            "peak_bytes": trace.peak_bytes,
            "memory_limit_bytes": budget.limit,
        }
        self.result_ = FitResult(
            status=status.name.lower(),
            advice=status.value,
            stats=known | stats,
            history=history,
            passes=trace.passes,
            needs=budget.needs,
            spectrum=None,
            certificate=None,
        )
        if status is not Status.CONVERGED:
            reached = {key: stats[key] for key in ("duality_gap", "relative_residual") if key in stats}
            shown = ", ".join(f"{key.replace('_', ' ')} {value:.1e}" for key, value in reached.items())
            message = f"{status.value} Reached: {shown}; asked {self.tol:.1e}."
            warnings.warn(message, ConvergenceWarning, stacklevel=3)

    # Predictions.

    def _predict_windows(self, source: RowSource, start: int = 0) -> Iterator[NDArray[np.float64]]:
        """Evaluate the expansion at a few rows at a time, in order, in double precision."""
        rows, coef, intercept = self._expansion()
        kernel = Kernel(**(asdict(self.kernel_) | {"precision": "double"}))
        support = as_source(rows)
        m = support.shape[0]
        spans = [slice(a, min(a + _SUPPORT_ROWS, m)) for a in range(0, m, _SUPPORT_ROWS)]

        def ready(span: slice) -> Rows:
            return kernel.rows(dense(support.read(span)), self.origin_)

        kept = [ready(span) for span in spans] if support.resident else None
        n = source.shape[0]
        skipped = start % TILE_ROWS
        blocks = [slice(a, min(a + TILE_ROWS, n)) for a in range(start - skipped, n, TILE_ROWS)]

        def evaluate(block: slice) -> NDArray[np.float64]:
            A = kernel.rows(dense(source.read(block)), self.origin_)
            z = np.broadcast_to(intercept, (len(A), intercept.size)).astype(np.float64)
            for i, span in enumerate(spans):
                z += kernel.tile(A, ready(span) if kept is None else kept[i]) @ coef[span]
            return z

        with single_threaded_blas():
            for z in in_order(evaluate, blocks):
                yield z[skipped:]
                skipped = 0

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the fitted model to a Zarr group, to be read by :func:`nysstream.load`.

        Parameters
        ----------
        path : str or path
        overwrite : bool
            Replace what is there.

        Raises
        ------
        OutputExistsError
            If ``path`` exists and ``overwrite`` is false.
        """
        check_is_fitted(self)
        save(self, path, overwrite=overwrite)

    def _stored(self) -> dict[str, Any]:
        """Give the arrays of the fitted model by name."""
        raise NotImplementedError

    def _restore(self, arrays: dict[str, NDArray[np.float64]], attributes: dict[str, Any]) -> None:
        """Take the arrays of a model file, which must go together."""
        self.kernel_ = Kernel(**attributes["kernel"])
        for key, values in arrays.items():
            setattr(self, key, values)
        d, (rows, coef, intercept) = self.n_features_in_, self._expansion()
        if rows.shape != (len(coef), d) or arrays["origin_"].shape != (d,) or intercept.size != coef.shape[1]:
            message = f"its {rows.shape} rows do not fit {len(coef)} coefficients and {d} features"
            raise ValueError(message)


def tile_bytes(d: int) -> int:
    """Count the bytes of the tiles that threads are working on."""
    return int(scheduler()[1] * 8 * (3 * TILE_ROWS * TILE_ROWS + 2 * TILE_ROWS * d))


def _variance(source: RowSource) -> float:
    """Compute the variance of all entries, as ``gamma="scale"`` needs it."""
    n, d = source.shape
    total = squares = 0.0
    shift: float | None = None
    for start in range(0, n, TILE_ROWS):
        rows = dense(source.read(slice(start, min(start + TILE_ROWS, n)))).astype(np.float64)
        shift = float(rows.mean()) if shift is None else shift
        rows = rows - shift
        total += float(rows.sum())
        squares += float(np.einsum("ij,ij->", rows, rows))
    return squares / (n * d) - (total / (n * d)) ** 2


def read_targets(target: Any) -> NDArray[np.float64]:
    """Read all of a stored matrix in double precision, shape (n, q)."""
    source = as_source(target)
    return np.asarray(dense(source.read(slice(0, source.shape[0]))), np.float64)


def read_column(column: Any) -> NDArray[np.float64]:
    """Read one stored number for each row, shape (n,)."""
    source = as_source(column)
    if source.shape[1] != 1:
        message = f"{source.name} has {source.shape[1]} columns: give one number for each row"
        raise InputError(message)
    return read_targets(source)[:, 0]


def check_lengths(source: RowSource, target: RowSource, weight: RowSource | None) -> None:
    """Refuse targets or weights of another number of rows."""
    for what, other in (("targets", target), ("weights", weight)):
        if other is not None and other.shape[0] != source.shape[0]:
            message = f"{source.name} has {source.shape[0]} rows, the {what} {other.shape[0]}"
            raise InputError(message)
