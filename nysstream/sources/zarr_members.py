"""Find an array in a Zarr store, and what the store says about its rows."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import zarr
from zarr.errors import ContainsGroupError, NodeTypeValidationError

from nysstream.errors import InputError, SourceError
from nysstream.sources.csr_groups import SparseGroup, sparse_encoding
from nysstream.sources.locations import is_url
from nysstream.sources.remote import explained

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_array(store: Any, name: str | None, url: str) -> zarr.Array[Any]:
    """Open the array ``name``, or the only matrix, of a store.

    Consolidated metadata are not used: they go stale when a store grows.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Open for reading.
    name : str or None
        Path of the array in the store; ``""`` for an array at its root.
    url : str
        How messages call the store.

    Raises
    ------
    InputError
        If ``name`` is None and the store holds no matrix, or several.
    SparseGroup
        If what is found is a group that holds a sparse matrix.
    SourceError
        If there is no such array, or its metadata cannot be read.
    """
    node = _node(store, name, url)
    if isinstance(node, zarr.Array):
        return node
    if sparse_encoding(node.attrs):
        raise sparse_group(node, url)
    arrays, groups = _members(node, url)
    inside = f"{url}[{name}]" if name else url
    found = _shown(arrays, groups)
    if name is not None:
        message = f"{inside} is a group, not an array; name one of its arrays: {found}"
        raise InputError(message)
    matrices = [array for array in arrays if array.ndim == 2] or ([] if groups else arrays)
    if len(matrices) + len(groups) != 1:
        message = f"{inside} does not hold exactly one matrix; name one of its arrays: {found}"
        raise InputError(message)
    if groups:
        raise sparse_group(groups[0], url)
    return matrices[0]


def committed_rows(array: zarr.Array[Any], name: str) -> int | None:
    """Rows that a writer has published, in the attributes of the array and of the nearest group above.

    Where both do, the smaller number counts: a writer of several arrays publishes theirs one by one,
    and that of their group last. What a group publishes that holds a sparse matrix, or one above it,
    does not count: its rows are not the entries of its arrays.

    Returns
    -------
    int or None
        None where nothing is published.

    Raises
    ------
    SourceError
        If the number makes no sense for the array.
    """
    found: list[Any] = [array.attrs.get("committed_rows")]
    path = array.path
    while path:
        path = path.rpartition("/")[0]
        try:
            group = zarr.open_group(array.store, path=path, mode="r", use_consolidated=False)
        except Exception:
            continue  # Zarr does not require that the groups above an array exist
        if sparse_encoding(group.attrs):
            break
        found.append(group.attrs.get("committed_rows"))
        if found[-1] is not None:
            break
    published = [rows for rows in found if rows is not None]
    strange = [rows for rows in published if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0]
    if not published:
        return None
    # While rows are being appended the numbers differ: those that all have are there.
    rows = strange[0] if strange else min(published)
    if strange or rows > array.shape[0]:
        message = (
            f"{name} publishes committed_rows = {rows!r} but has {array.shape[0]} rows; "
            "open it again if it has grown since, else the store is damaged: write it again"
        )
        raise SourceError(message)
    return int(rows)


@contextmanager
def unfinished_ignored() -> Iterator[None]:
    """Let Zarr list groups that are being written, whose marks it would warn about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Object at \S*\.(partial|appending) is not recognized")
        yield


def _node(store: Any, name: str | None, url: str) -> zarr.Array[Any] | zarr.Group:
    where = f"{url}[{name}]" if name else url
    try:
        try:
            return zarr.open_array(store, path=name or "", mode="r")
        except (
            FileNotFoundError,
            KeyError,
            ContainsGroupError,
            NodeTypeValidationError,
        ):
            return zarr.open_group(store, path=name or "", mode="r", use_consolidated=False)
    except FileNotFoundError as error:
        if name:
            message = f"{where} does not exist; {_listing(store, url)}"
        else:
            message = f"{url} holds no Zarr array or group; check the path"
        raise SourceError(message) from error
    except Exception as error:  # each back end, and each kind of damage, has errors of its own
        message = f"{where} cannot be opened: {explained(error)}"
        raise SourceError(message) from error


def _listing(store: Any, url: str) -> str:
    try:
        root = zarr.open_group(store, mode="r", use_consolidated=False)
        arrays, groups = _members(root, url)
    except Exception:
        return "check the bucket, the path and the name" if is_url(url) else "check the name"
    names = sorted([*(array.path for array in arrays), *(group.path for group in groups)])
    return f"its arrays are: {', '.join(names) or 'none'}"


def _shown(arrays: list[zarr.Array[Any]], groups: list[zarr.Group]) -> str:
    shown = [f"{array.path} {array.shape}" for array in arrays]
    shown += [f"{group.path} (a sparse matrix)" for group in groups]
    return ", ".join(sorted(shown)) or "none"


def sparse_group(group: zarr.Group, url: str) -> SparseGroup:
    """Say what there is to know of a group that holds a sparse matrix."""
    attributes = dict(group.attrs)
    published: Any = attributes.get("committed_rows")
    path = group.path
    while path:
        path = path.rpartition("/")[0]
        try:
            above = zarr.open_group(group.store, path=path, mode="r", use_consolidated=False)
        except Exception:
            continue
        more: Any = above.attrs.get("committed_rows")
        if published is None or (isinstance(more, int) and isinstance(published, int) and more < published):
            published = more
        if more is not None:
            break
    where = f"{url}[{group.path}]" if group.path else url
    return SparseGroup(group.path, attributes, published, where)


def _members(group: zarr.Group, url: str) -> tuple[list[zarr.Array[Any]], list[zarr.Group]]:
    """List arrays, and groups that hold a sparse matrix, whose own arrays do not count."""
    try:
        with unfinished_ignored():
            members = [member for _, member in group.members(max_depth=None)]
        groups = [m for m in members if isinstance(m, zarr.Group) and sparse_encoding(m.attrs)]
    except Exception as error:  # stores that cannot list say so in many ways
        message = f"the arrays of {url} cannot be listed ({explained(error)}); name one"
        raise SourceError(message) from error
    inside = tuple(f"{member.path}/" for member in groups)
    arrays = [m for m in members if isinstance(m, zarr.Array) and not m.path.startswith(inside)]
    return sorted(arrays, key=lambda m: m.path), sorted(groups, key=lambda m: m.path)
