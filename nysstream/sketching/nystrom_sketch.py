"""Everything additive that a set-up pass gathers, kept as one object that is updated as rows arrive."""

from __future__ import annotations

import numbers
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from nysstream.errors import InputError
from nysstream.features import FeatureMap, Identity, parse
from nysstream.sketching.origin import Origin
from nysstream.sketching.random_matrices import RandomState, as_seed
from nysstream.sketching.sums import Sums, gathering, kept, passed
from nysstream.streaming import DesignMatrix, Statistics
from nysstream.streaming.affordable import affordable
from nysstream.streaming.kept_sums import KeptSetUp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.approximation import Nystrom
    from nysstream.streaming import SetUp


class NystromSketch:
    r"""What one pass leaves of the rows for ridge regression, updated as rows arrive.

    Keeps, about the weighted means :math:`m` and :math:`\bar y`, the sketch
    :math:`\sum_i h_i (z_i - m)(z_i - m)^\top \Omega`, the cross products with the targets, the sums of
    squares and the means themselves; the whole Gram matrix and a sample of the rows where asked for.
    The order in which rows arrive makes no difference beyond rounding, and in the end all is as if
    they had been read at once.

    Parameters
    ----------
    rank : int
        Columns of the test matrix, at most the columns of the rows; 0 for no sketch.
    random_state : int, numpy.random.Generator or None, default 0
        Of the test matrix and the sample.
    features : FeatureMap or str, optional
        Applied to each row. Data-dependent settings are settled by the first rows.
    center : bool, default True
        Whether to work about the means.
    gram : bool, default False
        Whether to keep the whole Gram matrix too.
    reservoir : int, default 0
        Rows to keep, as stored, as a uniform sample of all.
    n_probes : int, default 10
        Further columns that only serve to bound errors.
    precision : {"single", "double"}, default "single"
        Of products with float32 data and with random features.
    memory : int or str, optional
        Limit for the whole process while it reads; half of what is available if None.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; None takes a GPU where there is one.

    Attributes
    ----------
    features : FeatureMap
        With data-dependent settings resolved.
    sums : Sums or None
        None before the first rows.
    origin : Origin or None
        The rows that :meth:`update_from` has read.

    Notes
    -----
    Memory: ``8 p (rank + n_probes + q)`` bytes for q targets, ``4 p^2`` for the Gram matrix.

    References
    ----------
    .. [1] Tropp, Yurtsever, Udell and Cevher, "Fixed-rank approximation of a positive-semidefinite
       matrix from streaming data", NeurIPS, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(12.0).reshape(6, 2) ** 2
    >>> sketch = NystromSketch(2, precision="double")
    >>> sketch.update(X[:4])
    >>> sketch.update(X[4:])
    >>> sketch.n_rows, sketch.statistics.mean.round(3).tolist()
    (6, [36.667, 47.667])
    """

    def __init__(
        self,
        rank: int,
        *,
        random_state: RandomState = 0,
        features: FeatureMap | str | None = None,
        center: bool = True,
        gram: bool = False,
        reservoir: int = 0,
        n_probes: int = 10,
        precision: Literal["single", "double"] = "single",
        memory: int | str | None = None,
        device: str | None = None,
    ) -> None:
        _check_settings(features, precision, rank=rank, reservoir=reservoir, n_probes=n_probes)
        self.features = parse(features) if isinstance(features, str) else features or Identity()
        self.precision: Literal["single", "double"] = precision
        self.memory, self.device = memory, device
        self.seed = as_seed(random_state)
        self.reservoir_size = int(reservoir)
        self.sums: Sums | None = None
        self.origin: Origin | None = None
        self._recipe = (int(rank), int(n_probes), bool(center), bool(gram))
        self._gather: KeptSetUp | None = None

    @classmethod
    def around(cls, gather: SetUp, design: DesignMatrix, *, seed: int, reservoir: int = 0) -> Self:
        """Make an empty sketch that gathers what a set-up does, for designs that were planned elsewhere."""
        features, precision = design.features, design.precision
        made = cls(0, random_state=seed, features=features, reservoir=reservoir, precision=precision)
        made._gather = kept(gather)
        return made

    @property
    def n_rows(self) -> int:
        """Rows that were added, less those forgotten."""
        return 0 if self.sums is None else self.sums.n_rows

    @property
    def watermark(self) -> int:
        """Rows of the data of :meth:`update_from` that were read already."""
        return 0 if self.origin is None else self.origin.n_rows

    @property
    def statistics(self) -> Statistics:
        """All sums, about the means.

        Raises
        ------
        InputError
            If no row of positive weight has been added yet.
        """
        return self._begun().statistics

    @property
    def sample(self) -> tuple[Any, NDArray[np.float64]] | None:
        """A uniform sample of the rows as stored, (m, d), and their weights, (m,); None without one."""
        if self.sums is None or self.sums.sample is None:
            return None
        return self.sums.sample.X, self.sums.sample.weight

    def update(self, block: Any, y: Any = None, weight: Any = None) -> None:
        """Add rows.

        Parameters
        ----------
        block : array-like, sparse array or RowSource, shape (k, d)
            Or whatever else :func:`nysstream.open` and the estimators take.
        y : as block, shape (k,) or (k, q), optional
            Always, or never.
        weight : as block, shape (k,), optional
            Ones by default.

        Raises
        ------
        InputError
            If rows, targets or weights do not fit those before, or a value is not finite; nothing
            is added then.
        MemoryBudgetError
            If reading does not fit the memory.

        Notes
        -----
        Cost: the rows are read once.
        """
        self.absorb(self._planned(self._design(block, y, weight)))

    def update_from(self, source: Any, target: Any = None, weight: Any = None) -> int:
        """Add the rows of a growing data set that were not there the last time.

        Parameters
        ----------
        source : RowSource or array-like, shape (n, d)
        target : as source, shape (n,) or (n, q), optional
        weight : as source, shape (n,), optional

        Returns
        -------
        int
            Rows added.

        Raises
        ------
        InputError
            If the data are not those of the last time, with rows added at the end.

        Notes
        -----
        Cost: the new rows are read once, and seven chunks of the old ones to make sure that they are
        the same.
        """
        design = self._design(source, target, weight)
        if self.origin is not None:
            self.origin.check(design)
        elif self.sums is not None:
            message = "the sketch holds rows that came otherwise: which rows of a store they are is unknown"
            raise InputError(message)
        n_new = design.shape[0] - self.watermark
        if n_new:
            self.absorb(self._planned(design.restrict(slice(self.watermark, None))))
        self.origin = Origin.of(design)
        return n_new

    def absorb(self, design: DesignMatrix) -> None:
        """Add all rows of a design, planned as it is, whose feature map is settled."""
        if self.sums is not None:
            self.sums.check(design)
        gather, seed = self.gather_of(design), self.seed + self.n_rows
        new = Sums.read(design, gather, "set-up", size=self.reservoir_size, seed=seed)
        self.sums = new if self.sums is None else self.sums.plus(new, seed)
        self.features = design.features

    def merge(self, other: NystromSketch) -> None:
        """Add the rows of another sketch, made with the same settings.

        Raises
        ------
        InputError
            If settings or shapes differ.
        """
        if other.sums is None:
            return
        if self.sums is None:
            self.sums, self.features = other.sums, other.features
            return
        if self.features != other.features:
            message = f"sketches of features {self.features} and {other.features} cannot be merged"
            raise InputError(message)
        alike = self.sums.following(None, None), other.sums.following(None, None)
        alike[0].check_alike(alike[1])
        self.sums = alike[0].plus(alike[1], self.seed + self.n_rows)

    def forget(self, X: Any, y: Any = None, weight: Any = None) -> None:
        """Take rows out again.

        Parameters
        ----------
        X, y, weight
            As they were added.

        Raises
        ------
        InputError
            If sums of squares show that they were not among the rows.

        Notes
        -----
        Cost: the rows given are read once. Rounding errors stay: where most of the weight goes, they
        are large beside what is left. Of rows that are equal, the sample gives up the copies it has.
        """
        sums = self._begun()
        design = self._planned(self._design(X, y, weight))
        left = sums.minus(Sums.read(design, sums.gather, "forget"))
        if left is not None and left.sample is not None:
            rows = design.source.read(slice(0, design.shape[0]))
            left = replace(left, sample=left.sample.without(rows))
        self.sums = left

    def decay(self, factor: float) -> None:
        """Multiply the weights of all rows so far, so that later ones count for more.

        Parameters
        ----------
        factor : float
            Above 0, at most 1.

        Notes
        -----
        Cost: no read. The sample is of the rows, whatever their weight.
        """
        if not 0 < factor <= 1:
            message = f"factor={factor!r}: weights are multiplied by a number above 0, at most 1"
            raise InputError(message)
        if self.sums is not None:
            self.sums = self.sums.times(float(factor))

    def add_targets(self, source: Any, target: Any, weight: Any = None) -> None:
        """Add targets of the rows that were read already.

        Parameters
        ----------
        source : RowSource or array-like, shape (n, d)
            The same rows again.
        target : as source, shape (n,) or (n, q)
            Further columns.
        weight : as source, shape (n,), optional

        Raises
        ------
        InputError
            If these are other rows or weights; also after :meth:`decay`.

        Notes
        -----
        Cost: one pass over the rows, for means and cross products only.
        """
        sums, design = self._begun(), self._design(source, target, weight)
        if self.origin is not None and design.shape[0] > self.watermark:
            design = design.restrict(slice(0, self.watermark))
        gather = KeptSetUp(center=sums.gather.center)
        self.sums = sums.beside(Sums.read(self._planned(design, gather), gather, "targets"))
        if self.origin is not None:  # no longer the targets that were identified
            known = self.origin.identities
            self.origin = Origin(self.origin.n_rows, (known[0], "", known[2]))

    def nystrom(self, rank: int | None = None, *, scale: NDArray[np.float64] | None = None) -> Nystrom:
        """Approximate the Gram matrix of all rows so far.

        Parameters
        ----------
        rank : int, optional
            Use only so many columns.
        scale : ndarray, shape (p,), optional
            What columns are divided by, such as their standard deviations; infinite for none of it.

        Notes
        -----
        Cost: no pass; ``O(p rank^2)`` flops.
        """
        return self._begun().nystrom(rank, scale)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the sketch to a Zarr group; see :meth:`load`.

        Raises
        ------
        OutputExistsError
            If the place is taken and ``overwrite`` is false.
        """
        from nysstream.sketching.sketch_file import save

        save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a sketch that :meth:`save` or ``nysstream sketch --out`` wrote.

        Raises
        ------
        SourceError
            If there is nothing there, or it cannot be read, or it is incomplete.
        InputError
            If it is no sketch, or damaged.
        """
        from nysstream.sketching.sketch_file import load

        return load(path, cls)

    def gather_of(self, design: DesignMatrix) -> KeptSetUp:
        """Say what a pass over new rows gathers."""
        if self.sums is not None:
            return self.sums.gather
        return self._gather or gathering(design.shape[1], *self._recipe, seed=self.seed)

    def _begun(self) -> Sums:
        if self.sums is None:
            message = "the sketch has seen no rows yet: update it first"
            raise InputError(message)
        return self.sums

    def _design(self, X: Any, y: Any, weight: Any) -> DesignMatrix:
        parts: list[Any] = [np.asarray(a) if isinstance(a, (list, tuple)) else a for a in (X, y, weight)]
        features = Identity() if self.features.needs_sample else self.features
        design = DesignMatrix(*parts, features=features, precision=self.precision, device=self.device)
        if self.features.needs_sample:
            design = replace(design, features=self.features.fit(design.sample_rows()))
        return design

    def _planned(self, design: DesignMatrix, gather: KeptSetUp | None = None) -> DesignMatrix:
        if self.sums is not None:
            self.sums.check(design, targets=gather is None)
        reductions = [gather] if gather else passed(design, self.gather_of(design), self.reservoir_size, 0)
        held = 0 if self.sums is None else 2 * self.sums.nbytes
        return affordable(design, self.memory, *reductions, held=held)


def _check_settings(features: Any, precision: str, **counts: Any) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, numbers.Integral) or int(count) < 0:
            message = f"{name}={count!r}: give a whole number, zero or more"
            raise InputError(message)
    if precision not in ("single", "double"):
        message = f"precision={precision!r} is not known: use 'single' or 'double'"
        raise InputError(message)
    if features is not None and not isinstance(features, (str, FeatureMap)):
        message = f"features={features!r} is no feature map: see nysstream.features"
        raise InputError(message)
