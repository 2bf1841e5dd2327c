"""Which rows of which data sums were taken of, so that only later ones are added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from nysstream.errors import InputError
from nysstream.sources.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from nysstream.streaming import DesignMatrix

_PARTS = ("source", "target", "weight")


@dataclass(frozen=True)
class Origin:
    """The first rows of a data set, by their number and by samples of their values.

    Attributes
    ----------
    n_rows : int
    identities : tuple of (str or None)
        Fingerprints of those rows of X, y and the weights; empty where they are not known.
    """

    n_rows: int
    identities: tuple[str | None, ...]

    @classmethod
    def of(cls, design: DesignMatrix, n_rows: int | None = None) -> Self:
        """Identify the first rows of a design, by default all of them.

        Notes
        -----
        Cost: seven chunks each of X, y and the weights.
        """
        count = design.shape[0] if n_rows is None else n_rows
        sources = (getattr(design, part) for part in _PARTS)
        return cls(
            count,
            tuple(None if s is None else fingerprint_of(s.restrict(slice(0, count))) for s in sources),
        )

    def check(self, design: DesignMatrix) -> None:
        """Refuse a design that does not begin with these rows.

        Raises
        ------
        InputError
            Says what is not as it was.
        """
        name = design.source.name
        if design.shape[0] < self.n_rows:
            message = (
                f"{name} has {design.shape[0]} rows, fewer than the {self.n_rows} that were read before: it "
                "has shrunk, or is another store; begin anew"
            )
            raise InputError(message)
        for part, before, now in zip(
            _PARTS, self.identities, Origin.of(design, self.n_rows).identities, strict=True
        ):
            if before in (now, ""):
                continue
            kind = {"source": "rows", "target": "targets", "weight": "weights"}[part]
            what = "are missing now" if now is None else "were not given then" if before is None else None
            message = (
                f"the {kind} of {name} {what or 'are not those that were read before'}: the first "
                f"{self.n_rows} must be as they were; begin anew if they were meant to change"
            )
            raise InputError(message)
