"""Linear operators on p-space."""

from nysstream.operators.algebra import Dense, Foreign, Sparse, as_operator
from nysstream.operators.base import LinearOperator

__all__ = ["Dense", "Foreign", "LinearOperator", "Sparse", "as_operator"]
