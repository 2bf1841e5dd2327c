"""Feature maps: seeded maps of rows to rows, applied as the data stream by and never stored."""

from nysstream.features.base import FeatureMap
from nysstream.features.fourier import Fourier
from nysstream.features.identity import Identity
from nysstream.features.registry import FEATURES, from_json, parse, to_json
from nysstream.features.relu import ReLU
from nysstream.features.tensor_sketch import TensorSketch

__all__ = [
    "FEATURES",
    "FeatureMap",
    "Fourier",
    "Identity",
    "ReLU",
    "TensorSketch",
    "from_json",
    "parse",
    "to_json",
]
