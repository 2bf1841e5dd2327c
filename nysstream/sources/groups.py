"""Zarr groups that this package writes and reads: complete with their last write, told by a format."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from nysstream.errors import InputError, NysstreamError, SourceError
from nysstream.sources.remote import advice_on, explained
from nysstream.sources.staging import written_aside
from nysstream.sources.targets import check_target, locate
from nysstream.sources.zarr_store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


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
            A local group appears when it is complete; one at a URL becomes readable with its last write.
        attributes : mapping
            Plain JSON.
        overwrite : bool
            Replace what is there.

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
                store: Any = place
                if isinstance(place, Path):
                    store = stack.enter_context(written_aside(place, overwrite=overwrite))
                group = zarr.create_group(store, zarr_format=3, overwrite=True)
                yield group
                group.update_attributes({"format": self.name, "version": self.version, **attributes})
        except NysstreamError:
            raise
        except Exception as error:  # each back end has errors of its own
            if not isinstance(error, OSError) and advice_on(error) is None:
                raise  # a mistake of ours
            message = f"cannot write the {self.what} {name}: {explained(error)}"
            raise SourceError(message) from error

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
