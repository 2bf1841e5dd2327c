"""Sketches of operators, and what can be made of one: preconditioners, certificates, spectra."""

from nysstream.sketching.nystrom import Certificate, Nystrom, Sketch, nystrom
from nysstream.sketching.nystrom_sketch import NystromSketch
from nysstream.sketching.preconditioner import (
    Columns,
    Diagonal,
    Identity,
    Inverse,
    NystromPreconditioner,
    Preconditioner,
)
from nysstream.sketching.random_matrices import as_seed, gaussian, orthonormal, probe_seed, rademacher
from nysstream.sketching.spectrum import Preconditioned, SpectralDensity, spectral_density

__all__ = [
    "Certificate",
    "Columns",
    "Diagonal",
    "Identity",
    "Inverse",
    "Nystrom",
    "NystromPreconditioner",
    "NystromSketch",
    "Preconditioned",
    "Preconditioner",
    "Sketch",
    "SpectralDensity",
    "as_seed",
    "gaussian",
    "nystrom",
    "orthonormal",
    "probe_seed",
    "rademacher",
    "spectral_density",
]
