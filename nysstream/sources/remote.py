"""Stores elsewhere: from a URL to a Zarr store, and from its errors to advice.

Credentials come from the environment of each process, or from the provider's own chain. They are
neither options nor attributes of anything here, so nothing that is pickled or printed holds them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zarr.storage import FsspecStore, ObjectStore, WrapperStore

from nysstream.errors import SourceError
from nysstream.sources.checking import reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

#: Schemes that obstore reads and retries by itself; others are left to fsspec.
_AZURE = ("az", "azure", "abfs", "abfss")
_OBSTORE = ("s3", "s3a", "gs", *_AZURE, "http", "https")
_PACKAGES = {"memory": "fsspec", **dict.fromkeys(_OBSTORE, "nysstream[s3]")}
#: A large object on a slow line may take minutes; a line that is silent for this long is dead.
_CLIENT = {"timeout": "15m", "connect_timeout": "10s", "read_timeout": "30s"}
_ENDPOINTS = {
    **dict.fromkeys(("s3", "s3a"), ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")),
    **dict.fromkeys(_AZURE, ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")),
    "gs": ("GOOGLE_BASE_URL",),
}
#: Where else than in variables a process may find credentials: profiles, by way of boto3.
_PROFILES = ("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE")
#: What each provider takes for credentials, by how obstore calls it in errors.
_CREDENTIALS = {
    "MicrosoftAzure": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "GCS": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_BEARER_TOKEN",
    "": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
#: How obstore says, in what it appends for debugging, that a certificate was refused.
_INVALID = re.compile(r"InvalidCertificate\(\s*(\w+?)(?:Context)?\b")
_NO_CERTIFICATES = "no certificates to trust were found: name a file of them in SSL_CERT_FILE"
#: How obstore says that listing was denied: of that it makes an error like any other.
_DENIED = re.compile(r"status code: 40[13]\b")
_ATTEMPTS, _FIRST_PAUSE = 6, 0.1


def remote_store(url: str, *, anonymous: bool = False, read_only: bool = True) -> Any:
    """Make the Zarr store at a URL; nothing is read yet.

    Parameters
    ----------
    url : str
        Without credentials.
    anonymous : bool
        Whether to ask without credentials, as public data allow.
    read_only : bool

    Raises
    ------
    SourceError
        If nothing that is installed reads such URLs, or the URL or the environment makes no sense.
    """
    scheme = url.split("://", 1)[0].lower()
    if not read_only and scheme in ("http", "https"):
        message = f"{url}: web servers are only read from; write to a local path or an object store"
        raise SourceError(message)
    try:
        if scheme in _OBSTORE and importlib.util.find_spec("obstore"):
            found: Any = ObjectStore(object_store(url, anonymous=anonymous), read_only=read_only)
        else:
            options = {"anon": True} if anonymous else None
            fsspec_store: Any = FsspecStore.from_url(url, storage_options=options, read_only=read_only)
            found = RetryingStore(fsspec_store)
        return WebStore(found) if scheme in ("http", "https") else found
    except ImportError as error:
        package = _PACKAGES.get(scheme, f"an fsspec package for {scheme}://")
        message = f"{url}: reading {scheme}:// needs another package ({reason(error)}); install {package!r}"
        raise SourceError(message) from error
    except Exception as error:  # each back end has errors of its own
        advice = f"; {_NO_CERTIFICATES}" if "CA certificates" in str(error) else ""
        message = f"{url} cannot be opened: {reason(error)}{advice}"
        raise SourceError(message) from error


def object_store(url: str, *, anonymous: bool) -> Any:
    """Make obstore's store, which retries what is worth it: 5xx, 429, resets, silence, broken bodies."""
    import obstore.store

    scheme = url.split("://", 1)[0].lower()
    client: dict[str, Any] = dict(_CLIENT)
    options: dict[str, Any] = {}
    endpoint = next((os.environ[name] for name in _ENDPOINTS.get(scheme, ()) if os.environ.get(name)), "")
    if scheme == "http" or endpoint.startswith("http://"):
        client["allow_http"] = True  # whoever sets an endpoint without encryption wants it
    if scheme in ("s3", "s3a"):
        if endpoint:
            options["endpoint"] = endpoint
        if not anonymous and "AWS_ACCESS_KEY_ID" not in os.environ and _has_profile():
            from obstore.auth.boto3 import Boto3CredentialProvider

            options["credential_provider"] = Boto3CredentialProvider()
    elif scheme in _AZURE and "@" not in urlsplit(url).netloc:
        # Where obstore finds the account by itself, it panics when such a store is to be printed.
        options["account_name"] = _azure_account()
    if anonymous:
        options["skip_signature"] = True
    from_url: Any = obstore.store.from_url
    return from_url(url, client_options=client, **options)


def _azure_account() -> str:
    emulated = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true", "on", "yes", "y")
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME") or ("devstoreaccount1" if emulated else None)
    if account is None:
        message = "name the storage account in the environment: AZURE_STORAGE_ACCOUNT_NAME is not set"
        raise SourceError(message)
    return account


def _has_profile() -> bool:
    files = ("~/.aws/credentials", "~/.aws/config")
    wanted = any(name in os.environ for name in _PROFILES)
    wanted = wanted or any(os.path.exists(os.path.expanduser(path)) for path in files)
    return wanted and importlib.util.find_spec("boto3") is not None


def unwrapped(store: Any) -> Any:
    """Give the store behind those of this module."""
    while isinstance(store, (RetryingStore, WebStore)):
        store = store._store
    return store


class WebStore(WrapperStore[Any]):
    """A web server, which is not asked to list what it has: most cannot, and say so in many ways."""

    supports_listing = False

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refuse."""
        message = "web servers do not list what they have"
        raise NotImplementedError(message)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Refuse."""
        return self.list_prefix(prefix)

    async def getsize(self, key: str) -> int:
        """Ask for the size of an object."""
        return int(await self._store.getsize(key))


class RetryingStore(WrapperStore[Any]):
    """A store of fsspec's that asks again where asking again may help."""

    async def get(self, *args: Any, **kwargs: Any) -> Any:
        """Read an object or a part of it."""
        return await _patiently(lambda: self._store.get(*args, **kwargs))

    async def set(self, *args: Any, **kwargs: Any) -> None:
        """Write an object."""
        await _patiently(lambda: self._store.set(*args, **kwargs))

    async def exists(self, key: str) -> bool:
        """Look for an object."""
        return bool(await _patiently(lambda: self._store.exists(key)))

    async def getsize(self, key: str) -> int:
        """Ask for the size of an object."""
        return int(await _patiently(lambda: self._size(key)))

    async def _size(self, key: str) -> Any:
        try:
            return await self._store.getsize(key)
        except FileNotFoundError as error:
            # Of a web server, fsspec says so whatever went wrong.
            cause = error.__cause__
            if cause is None or _root(cause) != "aiohttp" or getattr(cause, "status", None) in (404, 410):
                raise
        raise cause


async def _patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    for attempt in range(_ATTEMPTS):
        try:
            return await ask()
        except Exception as error:
            if attempt == _ATTEMPTS - 1 or not is_transient(error):
                raise
        await asyncio.sleep(_FIRST_PAUSE * 2**attempt)
    raise AssertionError


def _root(error: BaseException) -> str:
    return type(error).__module__.split(".")[0]


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if _mistrust(error):
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status in (408, 429) or status >= 500
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return _root(error) == "aiohttp"  # broken connections and bodies


def _mistrust(error: BaseException) -> str | None:
    """Say what is wrong with the certificate of a server, if that is why it is not talked to."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            inner = getattr(seen, "certificate_error", seen)  # of aiohttp's
            return str(getattr(inner, "verify_message", inner))
        if _root(seen) == "obstore" and (found := _INVALID.search(str(seen))):
            return found[1]
        seen = seen.__cause__ or seen.__context__
    return None


def advice_on(error: BaseException) -> str | None:
    """Say what to check when a store elsewhere refuses, or cannot be reached; None for other errors."""
    name, text = type(error).__name__, str(error)
    if mistrust := _mistrust(error):
        variable = "AWS_CA_BUNDLE" if _root(error) == "botocore" else "SSL_CERT_FILE"
        return (
            f"the certificate of the server is not trusted ({mistrust}): if a private authority signed it, "
            f"name a file with the authority's certificate in {variable} before this process starts"
        )
    if isinstance(error, OSError) and error.strerror:
        return None  # of this machine
    status = getattr(error, "status", None)
    if "169.254.169.254" in text or name == "NoCredentialsError":
        names = next(
            names for store, names in _CREDENTIALS.items() if f"Generic {store}" in text or not store
        )
        return (
            f"no credentials were found: set them in the environment ({names}), or pass anonymous=True for "
            "public data"
        )
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return "there is no such bucket or container: make it first, or check its name"
    denied = name in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError")
    if denied or status in (401, 403) or (name == "GenericError" and _DENIED.search(text)):
        return (
            "access is denied (401 or 403): check the credentials in the environment of this process, and "
            "what they may do, or pass anonymous=True for public data"
        )
    if name == "GenericError" or is_transient(error):
        return "check the network, the endpoint in the environment (such as AWS_ENDPOINT_URL) and the bucket"
    return None


def explained(error: BaseException) -> str:
    """Give the reason of an error, with advice where there is some."""
    advice = advice_on(error)
    return reason(error) if advice is None else f"{reason(error)}; {advice}"
