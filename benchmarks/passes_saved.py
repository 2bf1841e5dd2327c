"""Count the passes that preconditioning saves on the demonstration's problem.

Sums the Gram matrix of the flights' random features in one pass, then solves the same system with
it in memory by plain CG and by PCG with Nyström sketches of several ranks: the iterations are those
that a streamed solve would make, each of them a pass. Run
``python -m benchmarks.passes_saved demo-out/flights.zarr`` after ``make demo``.
"""

from __future__ import annotations

import argparse

import nysstream
from nysstream.features import Fourier
from nysstream.streaming import DesignMatrix, SetUp, reduce


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--features", type=int, default=4000)
    parser.add_argument("--length-scale", type=float, default=12.0)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--ranks", type=int, nargs="*", default=[128, 256, 512])
    arguments = parser.parse_args()
    X, y = nysstream.open(arguments.store, "x"), nysstream.open(arguments.store, "y")
    train = slice(0, X.shape[0] - X.shape[0] // 10)
    features = Fourier(arguments.features, length_scale=arguments.length_scale)
    design = DesignMatrix(X.restrict(train), y.restrict(train), features=features)
    (sums,) = reduce(design, SetUp(gram=True))
    gram, rhs = nysstream.as_operator(sums.gram, psd=True), sums.cross[:, 0]
    settings = {"shift": arguments.alpha, "rtol": arguments.tol}
    plain = nysstream.pcg(gram, rhs, **settings).stats["iterations"]
    print(f"plain CG: {plain} passes to {arguments.tol:g}")
    for rank in arguments.ranks:
        sketch = nysstream.nystrom(gram, rank, random_state=0)
        steps = nysstream.pcg(gram, rhs, preconditioner=sketch, **settings).stats["iterations"]
        print(f"Nyström rank {rank}: {steps} passes, {plain / steps:.1f} times fewer")


if __name__ == "__main__":
    main()
