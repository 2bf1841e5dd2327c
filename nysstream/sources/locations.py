"""Where data lie: local paths and URLs, and what of them may be shown."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from nysstream.errors import InputError

#: A user and a password after a scheme, wherever it stands and however it is spelled.
_PASSWORD = re.compile(r":/+[^/]*:[^/]*@")
_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_url(location: str) -> bool:
    """Whether a location has a scheme, as in ``s3://bucket/key``."""
    return bool(_SCHEME.match(location))


def local_path(location: str) -> str | None:
    """Path of a location on a local file system; None where it is elsewhere."""
    if not is_url(location):
        return location
    parts = urlsplit(location)
    if parts.scheme.lower() not in ("file", "local"):
        return None
    return unquote(parts.netloc + parts.path)


def checked_location(location: str | os.PathLike[str]) -> str:
    """Give a location as text, refusing a URL that carries a secret.

    Raises
    ------
    InputError
        If a URL holds a password or a query, which would reach logs and workers.
    """
    text: object = os.fspath(location)
    if not isinstance(text, str):
        message = f"a path or URL must be text, not {type(text).__name__}; decode it with os.fsdecode"
        raise InputError(message)
    local = local_path(text) is not None
    if (local or not urlsplit(text).netloc) and _PASSWORD.search(text):
        message = (
            "a location that is no plain URL carries credentials, so it is not shown here: leave them out, "
            "and set them in the environment, where each worker reads its own"
        )
        raise InputError(message)
    if local:
        return text
    parts = urlsplit(text)
    if parts.scheme.lower() in ("abfs", "abfss") and ":" not in parts.netloc:
        parts = parts._replace(netloc=parts.hostname or "")  # container@account names no user
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://{parts.hostname}{parts.path}"
        message = (
            f"the URL of {shown} carries credentials or a query; leave them out and set them in the "
            "environment (for example AWS_ACCESS_KEY_ID), where each worker reads its own"
        )
        raise InputError(message)
    return text
