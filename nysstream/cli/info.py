"""The command ``info``."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from nysstream.cli.printing import by, print_json, print_table, two_columns
from nysstream.cli.running import CONVERGED, command
from nysstream.cli.stores import stored_arrays
from nysstream.errors import InputError
from nysstream.report import wording
from nysstream.sources import open as open_source

if TYPE_CHECKING:
    from nysstream.cli.stores import StoredArray


@command
def info(store: str, *, data: str | None, verify: bool, json: bool) -> int:
    """Describe the arrays of STORE, and say where their layout is bad for streaming."""
    arrays = stored_arrays(store, data)
    for array in arrays if verify else []:
        with contextlib.suppress(InputError):  # it holds no matrix
            open_source(store, array.name or None, verify=True)
    if json:
        print_json({"store": store, "arrays": [dataclasses.asdict(array) for array in arrays]})
        return CONVERGED
    if not arrays:
        print(f"{store} holds no arrays")
    for number, array in enumerate(arrays):
        print(("\n" if number else "") + (array.name or store))
        print_table(two_columns(_lines(array)))
    return CONVERGED


def _lines(array: StoredArray) -> list[tuple[str, str]]:
    committed = array.committed_rows
    return [
        ("  Shape", by(array.shape) or "scalar"),
        ("  Type", array.dtype if array.n_entries is None else f"{array.dtype}, sparse rows (CSR)"),
        ("  Entries", "" if array.n_entries is None else _entries(array)),
        ("  Chunks", "one piece" if array.chunks is None else by(array.chunks)),
        ("  Codec", array.codec),
        ("  Size", f"{wording.size(array.nbytes)}, {wording.size(array.stored_bytes)} stored"),
        ("  Committed rows", "" if committed is None else f"{committed:,}"),
        ("  Fingerprint", array.fingerprint or ""),
        *[("  Advice", text) for text in array.advice],
    ]


def _entries(array: StoredArray) -> str:
    size = array.shape[0] * array.shape[1]
    return f"{array.n_entries or 0:,}, {(array.n_entries or 0) / max(1, size):.2%}"
