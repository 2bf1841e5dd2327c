"""Finite sums: losses over rows that come in minibatches, plus a regularizer."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace, to_host
from nysstream.errors import InputError
from nysstream.regularizers import Regularizer, Separable
from nysstream.streaming.kernels import rescale, unscale
from nysstream.streaming.reduction import accumulate, cast, column_sums, multiply_back, zero_product

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nysstream.solvers.composite import Composite, Evaluation
    from nysstream.solvers.quadratic import Block, Certified, Vector
    from nysstream.streaming import DesignMatrix, Outcome
    from nysstream.streaming.minibatch import Batch, Minibatches
    from nysstream.streaming.reduction import Tile


@dataclass(frozen=True, eq=False)
class Change:
    """What a batch tells: sums over its rows, weighted.

    Attributes
    ----------
    gradient : ndarray, shape (p', k)
        Of the slopes' differences from those they are compared with.
    loss, compared_loss : float
        At the iterate and where the compared slopes are from; the latter is NaN where they were given.
    slopes : ndarray, shape (b, k)
        At the iterate, for each row and unweighted.
    """

    gradient: Block
    loss: float
    compared_loss: float
    slopes: Block


@dataclass(eq=False)
class FiniteSum:
    r"""Minimise :math:`\sum_i h_i \ell(\tilde x_i^\top w + b, y_i) + r(w)` by gradients of batches.

    Coefficients and intercepts are one block ``(p', k)``: with intercepts they are its last row, as if the
    rows had a column of ones. The quadratic part of the regularizer belongs to the smooth function.

    Attributes
    ----------
    composite : Composite
        The same problem as a full pass sees it.
    batches : Minibatches
        Of the centred and scaled design.
    outcome : Outcome
    sample : DesignMatrix
        A uniform sample of the rows in memory, after the feature map.
    factor : float
        What sums over the sample are multiplied with to stand for those over all rows.
    epochs : int
        Passes made in batches so far.
    seen : float
        Losses that the batches of an epoch have shown, where they are watched.
    latest : tuple, or None
        The block that was evaluated last, and what was found.
    """

    composite: Composite
    batches: Minibatches
    outcome: Outcome
    sample: DesignMatrix
    factor: float
    epochs: int = 0
    seen: float = 0.0
    latest: tuple[Block, Evaluation] | None = None
    memo: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def passes(self) -> int:
        """Reads of the data made so far."""
        return self.composite.passes + self.epochs

    @property
    def intercept(self) -> bool:
        """Whether the last row of a block holds intercepts."""
        return self.composite.smooth.intercept

    @property
    def coupled(self) -> bool:
        """Whether the loss couples the columns."""
        return self.composite.smooth.coupled

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a block of coefficients and intercepts."""
        p, k = self.composite.smooth.shape
        return p + self.intercept, k

    @functools.cached_property
    def l2(self) -> Block:
        """Strengths of the l2 penalty, (p', k); zero for intercepts."""
        l2 = np.zeros(self.shape)
        regularizer = self.composite.regularizer
        if isinstance(regularizer, Separable):
            l2[: self.composite.smooth.shape[0]] = regularizer.l2
        return l2

    @functools.cached_property
    def rest(self) -> Regularizer | None:
        """The regularizer but for its quadratic part, on whole blocks; None where nothing is left."""
        regularizer = self.composite.regularizer
        if not isinstance(regularizer, Separable):
            return _Leading(regularizer, self.composite.smooth.shape[0])
        names = {"l1": 0.0, "lower": -np.inf, "upper": np.inf}
        if all(np.all(getattr(regularizer, name) == free) for name, free in names.items()):
            return None
        extended = {}
        for name, free in names.items():
            full = np.broadcast_to(getattr(regularizer, name), self.composite.smooth.shape)
            extended[name] = np.vstack([full, np.full((int(self.intercept), self.shape[1]), free)])
        return Separable(**extended)

    def validate(self, needs: frozenset[str]) -> None:
        """Refuse what the composite problem refuses, and losses without a slope everywhere."""
        self.composite.validate(needs)
        if not self.outcome.loss.smooth:
            message = (
                f"{type(self.outcome.loss).__name__} has a kink: stochastic gradients need smooth losses"
            )
            raise InputError(message)

    def join(self, W: Block, intercept: Vector) -> Block:
        """Put intercepts below coefficients."""
        return np.vstack([W, intercept[None, :]]) if self.intercept else np.array(W)

    def split(self, V: Block) -> tuple[Block, Vector]:
        """Take coefficients and intercepts apart."""
        p = self.composite.smooth.shape[0]
        return np.ascontiguousarray(V[:p]), V[p].copy() if self.intercept else np.zeros(V.shape[1])

    def evaluate(self, V: Block, *, precise: bool) -> tuple[Certified, Block]:
        """Certify a block, and give the gradient of the losses there, (p', k); one pass."""
        W, intercept = self.split(V)
        at = self.composite.smooth.evaluate(W, intercept, precise=precise)
        self.latest = V, at
        return self.composite.certify(W, at), self.join(at.gradient, at.slope)

    def change(
        self, batch: Batch, V: Block, *, compared: Block | None = None, slopes: Block | None = None
    ) -> Change:
        """Sum over a batch the gradients at V less those at another block, or those that were kept.

        Parameters
        ----------
        batch : Batch
        V : ndarray, shape (p', k)
        compared : ndarray, shape (p', k), optional
        slopes : ndarray, shape (b, k), optional
            In place of those at ``compared``; with neither, nothing is subtracted.
        """
        design, loss, k = batch.design, self.outcome.loss, V.shape[1]
        W, intercept = self.split(V)
        if compared is not None:
            other, below = self.split(compared)
            W, intercept = np.hstack([W, other]), np.concatenate([intercept, below])
        scaled, offset = unscale(design, W)
        device = design.get_device()
        vectors = device.put(np.ascontiguousarray(scaled, dtype=design.dtype))
        constant = device.put(np.ascontiguousarray(intercept if offset is None else intercept - offset))

        def run(tiles: Iterator[tuple[slice, Tile]]) -> dict[str, Any]:
            sums = {
                "product": zero_product(design, device, k),
                "slope": device.zeros((k,), np.float64),
                "loss": 0.0,
                "compared": 0.0,
            }
            found = []
            for places, tile in tiles:
                fitted = tile.Z @ vectors
                xp = namespace(constant)
                z = cast(fitted, xp.float64) + constant[None, :]
                y, weight = self.outcome.of(tile)
                value, slope, _ = loss.value_slope_curvature(z[:, :k], y)
                found.append(to_host(slope))
                values = {"loss": value}
                if slopes is not None:
                    slope = slope - device.put(slopes[places])
                elif compared is not None:
                    values["compared"], before, _ = loss.value_slope_curvature(z[:, k:], y)
                    slope = slope - before
                if weight is not None:
                    # Zero weights take out whatever the rows hold.
                    w = weight[:, None]
                    slope = xp.where(w == 0, xp.zeros_like(slope), w * slope)
                    values = {n: xp.where(w == 0, xp.zeros_like(v), w * v) for n, v in values.items()}
                sums["product"] = accumulate(
                    sums["product"], multiply_back(tile.Z, cast(slope, fitted.dtype))
                )
                sums["slope"] = sums["slope"] + column_sums(slope)
                for name, v in values.items():
                    sums[name] += float(xp.sum(v))
            return {
                **sums,
                "product": to_host(sums["product"]),
                "slope": to_host(sums["slope"]),
                "rows": found,
            }

        parts = batch.map(run)
        total = {name: sum(part[name] for part in parts) for name in ("product", "slope", "loss", "compared")}
        gradient = rescale(design, total["product"], total["slope"])
        return Change(
            self.join(gradient, total["slope"]),
            total["loss"],
            total["compared"] if compared is not None and slopes is None else np.nan,
            np.concatenate([slope for part in parts for slope in part["rows"]]),
        )

    def loss(self, batch: Batch, V: Block) -> float:
        """Sum the losses of a batch."""
        return FiniteSum.change(self, batch, V).loss

    def slopes(self, batch: Batch, V: Block) -> Block:
        """Give the slopes of a batch's rows, (b, k)."""
        return FiniteSum.change(self, batch, V).slopes

    def balance(self, V: Block) -> Block:
        """Take off a common shift of the columns where the loss couples them.

        It changes no loss and only adds to an l2 penalty, and metrics of single columns lead into it.
        """
        return V - V.mean(axis=1, keepdims=True) if self.coupled else V

    def penalty(self, V: Block) -> float:
        """Evaluate the regularizer, over all columns."""
        return float(np.sum(self.composite.regularizer.value(self.split(V)[0])))


@dataclass(frozen=True, eq=False)
class _Leading(Regularizer):
    """A regularizer of the first p rows of a block; further rows are free."""

    given: Regularizer
    p: int

    def value(self, W: Block) -> Vector:
        """Evaluate the leading rows."""
        return self.given.value(W[: self.p])

    def prox(self, V: Block, step: Any) -> Block:
        """Leave further rows as they are."""
        return np.vstack([self.given.prox(V[: self.p], step), V[self.p :]])

    def distance(self, W: Block, G: Block) -> Vector:
        """Take the larger of the leading rows' distance and the further gradients."""
        rest = np.abs(G[self.p :]).max(axis=0, initial=0.0)
        return np.asarray(np.maximum(self.given.distance(W[: self.p], G[: self.p]), rest))

    def conjugate(self, V: Block) -> Vector:
        """Be infinite unless further rows are zero."""
        free = np.all(V[self.p :] == 0, axis=0)
        return np.where(free, self.given.conjugate(V[: self.p]), np.inf)

    def dual_scale(self, V: Block) -> Vector:
        """Shrink as the leading rows need it."""
        return self.given.dual_scale(V[: self.p])

    def columns(self, index: Any) -> Regularizer:
        """Restrict to some columns."""
        return replace(self, given=self.given.columns(index))
