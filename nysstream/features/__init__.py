"""Feature maps: seeded maps of rows to rows, applied as the data stream by and never stored."""

from nysstream.features.base import FeatureMap
from nysstream.features.fourier import Fourier
from nysstream.features.identity import Identity

FEATURES: dict[str, type[FeatureMap]] = {"identity": Identity, "fourier": Fourier}

__all__ = ["FEATURES", "FeatureMap", "Fourier", "Identity"]
