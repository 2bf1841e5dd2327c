"""Iterative solvers in p-space: they see operators, never data."""

from nysstream.solvers.base import Problem, Result, Solver, Status, solve
from nysstream.solvers.linear_system import LinearSystem
from nysstream.solvers.pcg import PCG, PCGState, pcg

__all__ = ["PCG", "LinearSystem", "PCGState", "Problem", "Result", "Solver", "Status", "pcg", "solve"]
