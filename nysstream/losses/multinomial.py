"""The multinomial logistic loss."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss, counts, log_of, within, x_log_x


@dataclass(frozen=True)
class Multinomial(Loss):
    r"""Negative log-likelihood :math:`\log \sum_c e^{z_c} - z_y` of classes y in 0, ..., K - 1.

    Predictors have a column per class, shape (t, K); targets hold numbers of classes, shape (t, 1).
    Values and conjugates have one column, shape (t, 1), slopes and curvatures K. Second derivatives are
    :math:`\mathrm{diag}(q) - q q^\top` with the classes' probabilities q; ``curvature`` is the diagonal,
    and ``curvature_product`` multiplies by all of it.

    The conjugate is :math:`\sum_c q_c \log q_c` where :math:`q = u + e_y` lies in the simplex. Rounding
    errors of sums of K numbers are forgiven there.
    """

    classification = True
    coupled = True
    curvature_bound = 0.5
    requirement = "the multinomial loss needs targets that are numbers of classes: 0, 1, 2, ..."

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss, (t, 1)."""
        return self.value_slope_curvature(z, y)[0]

    def slope(self, z: Array, y: Array) -> Array:
        """Give the probabilities less one for the target's class, (t, K)."""
        return self.value_slope_curvature(z, y)[1]

    def curvature(self, z: Array, y: Array) -> Array:
        """Give the diagonal of the second derivatives, (t, K)."""
        q = self.predict(z)
        return q * (1.0 - q)

    def curvature_product(self, z: Array, y: Array, d: Array) -> Array:
        """Multiply the second derivatives by d, (t, K)."""
        q = self.predict(z)
        return q * (d - namespace(z).sum(q * d, axis=1, keepdims=True))

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Take one exponential per class for all three."""
        xp = namespace(z)
        largest = xp.max(z, axis=1, keepdims=True)
        e = xp.exp(z - largest)
        own = _own(z, y)
        zeros = xp.zeros_like(z)
        others = xp.sum(xp.where(own, zeros, e), axis=1, keepdims=True)
        total = xp.sum(e, axis=1, keepdims=True)
        behind = xp.sum(xp.where(own, largest - z, zeros), axis=1, keepdims=True)
        value = xp.where(behind > 0, behind + xp.log(total), xp.log1p(others))
        q = e / total
        # The other classes' sum has digits where one less a probability has none.
        return value, xp.where(own, -others / total, q), q * (1.0 - q)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the negative entropy, (t, 1)."""
        xp = namespace(u)
        slack = 16.0 * u.shape[1] * float(xp.finfo(u.dtype).eps)
        q = xp.where(_own(u, y), 1.0 + u, u)
        inside = xp.all(q >= -slack, axis=1, keepdims=True)
        inside = inside & (xp.abs(xp.sum(u, axis=1, keepdims=True)) <= slack)
        return within(inside, xp.sum(x_log_x(q), axis=1, keepdims=True))

    def invalid(self, y: Array) -> Array:
        """Mark what is not a whole number from zero."""
        xp = namespace(y)
        return ~(xp.isfinite(y) & (y >= 0) & (xp.floor(y) == y))

    def predict(self, z: Array) -> Array:
        """Give the classes' probabilities, (t, K)."""
        xp = namespace(z)
        e = xp.exp(z - xp.max(z, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    def start(self, mean: Array) -> Array:
        """Give centred logarithms of the classes' shares, (K,)."""
        log = log_of(mean)
        return log - namespace(mean).mean(log)


def _own(z: Array, y: Array) -> Array:
    """Mark the column of each row's class, (t, K)."""
    return y == counts(z.shape[1], z)[None, :]
