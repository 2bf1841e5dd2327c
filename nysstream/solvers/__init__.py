"""Iterative solvers in p-space: they see operators, never data."""

from nysstream.solvers.base import Problem, Result, Solver, Status, solve
from nysstream.solvers.descent import Descent, DescentState, descent
from nysstream.solvers.linear_system import LinearSystem
from nysstream.solvers.pcg import PCG, pcg
from nysstream.solvers.pcg_state import PCGState

__all__ = [
    "PCG",
    "Descent",
    "DescentState",
    "LinearSystem",
    "PCGState",
    "Problem",
    "Result",
    "Solver",
    "Status",
    "descent",
    "pcg",
    "solve",
]
