"""Zarr groups that this package writes and reads: complete with their last write, told by a format."""

from __future__ import annotations

import os
import re
import secrets
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from zarr.core.sync import sync

from nysstream.errors import InputError, NysstreamError, SourceError
from nysstream.sources.remote import advice_on, explained
from nysstream.sources.staging import written_aside
from nysstream.sources.targets import check_target, locate
from nysstream.sources.zarr_store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zarr.abc.store import Store

#: The attribute that names the group inside which holds the arrays, at URLs.
_ARRAYS = "arrays"
_INSIDE = re.compile("arrays-[0-9a-f]{8}")


@dataclass(frozen=True)
class GroupFormat:
    """What a kind of group is, and how messages speak of it.

    Attributes
    ----------
    what : str
        Such as ``"model"``.
    name : str
        Stored as the attribute ``format``.
    version : int
    writers : str
        What writes such groups.
    """

    what: str
    name: str
    version: int
    writers: str

    @contextmanager
    def writing(
        self, path: str | os.PathLike[str], attributes: Mapping[str, Any], *, overwrite: bool
    ) -> Iterator[zarr.Group]:
        """Give a group to fill, which a reader takes for one of this kind only when the block is done.

        Parameters
        ----------
        path : str or path
            A local group appears when it is complete. At a URL the arrays are written into a group inside,
            and one write of the outer group's attributes makes them count: whoever reads finds the old ones
            or the new ones.
        attributes : mapping
            Plain JSON.
        overwrite : bool
            Replace what is there; at a URL what is of another kind is removed first.

        Raises
        ------
        OutputExistsError
            If the place is taken and ``overwrite`` is false.
        SourceError
            If it cannot be written.
        """
        check_target(path, overwrite=overwrite)
        name, place = locate(path)
        try:
            with ExitStack() as stack:
                about = {"format": self.name, "version": self.version, **attributes}
                if isinstance(place, Path):
                    partial = stack.enter_context(written_aside(place, overwrite=overwrite))
                    group = zarr.create_group(partial, zarr_format=3, attributes=about)
                else:
                    group = stack.enter_context(self._inside(place, about))
                yield group
        except NysstreamError:
            raise
        except Exception as error:  # each back end has errors of its own
            if not isinstance(error, OSError) and advice_on(error) is None:
                raise  # a mistake of ours
            message = f"cannot write the {self.what} {name}: {explained(error)}"
            raise SourceError(message) from error

    @contextmanager
    def _inside(self, place: Store, about: dict[str, Any]) -> Iterator[zarr.Group]:
        """Give a group inside that at a URL, which takes the place of the arrays there in the end."""
        root = self._found(place)
        if root is None:
            root = zarr.create_group(place, zarr_format=3, overwrite=True)
        named = str(root.attrs.get(_ARRAYS))  # by whoever wrote it: nothing but such a group is removed
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Object at .* is not recognized")  # those stay
            stale = [named] if _INSIDE.fullmatch(named) else list(root.array_keys())
        inside = f"arrays-{secrets.token_hex(4)}"
        try:
            yield root.create_group(inside)
            root.attrs.put(about | {_ARRAYS: inside})
        except BaseException:
            if root.attrs.get(_ARRAYS) != inside:
                with suppress(Exception):
                    sync(place.delete_dir(inside))
            raise
        for member in stale:
            sync(place.delete_dir(member))

    def _found(self, place: Store) -> zarr.Group | None:
        """Open a group of this kind to write to it; None where there is none."""
        try:
            root = zarr.open_group(place, mode="r+", zarr_format=3, use_consolidated=False)
        except (FileNotFoundError, ValueError, TypeError, KeyError):  # nothing, or something else
            return None
        return root if root.attrs.get("format") == self.name else None

    def open(self, name: str) -> tuple[zarr.Group, dict[str, Any]]:
        """Open whatever group is there, and read its attributes.

        Raises
        ------
        SourceError
            If there is none, or it cannot be read.
        """
        try:
            group = zarr.open_group(open_store(name), mode="r", use_consolidated=False)
            return group, dict(group.attrs)
        except NysstreamError:
            raise
        except FileNotFoundError as error:
            message = f"{name} holds no Zarr group: check the path, or whether writing it was finished"
            raise SourceError(message) from error
        except Exception as error:  # each kind of damage has errors of its own
            message = f"the {self.what} {name} cannot be opened: {explained(error)}"
            raise SourceError(message) from error

    def contents(self, group: zarr.Group, attributes: Mapping[str, Any], name: str) -> zarr.Group:
        """Give the group that holds the arrays of an opened one: itself, or one inside.

        Raises
        ------
        SourceError
            If it is not there.
        """
        if _ARRAYS not in attributes:
            return group
        try:
            found = group[attributes[_ARRAYS]]
        except Exception as error:  # each kind of damage has errors of its own
            message = f"the arrays of the {self.what} {name} cannot be opened: {explained(error)}"
            raise SourceError(message) from error
        if not isinstance(found, zarr.Group):
            message = f"the {self.what} {name} is damaged: {attributes[_ARRAYS]!r} is no group; make it again"
            raise SourceError(message)
        return found

    def check(self, attributes: Mapping[str, Any], name: str) -> None:
        """Refuse a group of another kind or version.

        Raises
        ------
        InputError
        """
        if attributes.get("format") != self.name:
            message = f"{name} is no {self.what} of nysstream, as {self.writers} write them"
            raise InputError(message)
        if attributes.get("version") != self.version:
            message = (
                f"the {self.what} {name} has format version {attributes.get('version')!r}, this nysstream "
                f"reads {self.version}: make it again, or upgrade nysstream"
            )
            raise InputError(message)
