"""The files of a model on a web server, which has no listing of directories."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from raydsinfer.checkpoints.model_files import INDICES, KNOWN_FILES, named_in
from raydsinfer.checkpoints.sources.remote_errors import explained, is_absent, patiently
from raydsinfer.checkpoints.sources.secrets import without_secrets
from raydsinfer.errors import CheckpointNotFoundError

NUM_THREADS = 8
"""Files that are asked for or fetched at the same time."""


class WebDirectory:
    """A directory on a web server.

    Args:
        filesystem: fsspec's for HTTP.
        url: Of the directory; a query (a signature) is sent with each file.
    """

    def __init__(self, filesystem: Any, url: str) -> None:
        self._filesystem, self._url = filesystem, url

    def names(self) -> set[str]:
        """Names of the files that are there, as far as that can be known.

        If the server makes a page of links that names ``config.json``, that is taken for a listing;
        else files are asked for by the names that they have with most models, and by those that
        ``config.json`` and the indices give.

        Raises:
            CheckpointNotFoundError: There is no model.
            Exception: Whatever fsspec raises.
        """
        linked = self._linked()
        return linked if "config.json" in linked else self._known()

    def key_of(self, name: str) -> str:
        """The URL of a file."""
        return file_url(self._url, name)

    def _linked(self) -> set[str]:
        if urlsplit(self._url).query:
            return set()  # what it asks for is a file, not a page of links
        base = self._url.rstrip("/") + "/"
        try:
            links: Iterable[str] = patiently(partial(self._filesystem.ls, base, detail=False))
        except Exception as error:
            if is_absent(error):
                return set()
            raise
        names = {unquote(link.removeprefix(base)) for link in links if not set("?#") & set(link)}
        # Links lead anywhere; files of a model lie beside each other.
        return {name for name in names if name not in (".", "..") and not set("/\\:\0") & set(name)}

    def _known(self) -> set[str]:
        config = self._text("config.json")
        if not _is_json(config):
            raise CheckpointNotFoundError(
                path=without_secrets(self._url),
                reason="what it gives for config.json is no JSON",
                hint="Check the URL.",
            )
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            there = pool.map(self._exists, KNOWN_FILES)
            names = {name for name, found in zip(KNOWN_FILES, there, strict=True) if found}
        named = set(named_in("config.json", config))
        for index in names & set(INDICES):
            named.update(named_in(index, self._text(index)))
        return {"config.json"} | names | named

    def _text(self, name: str) -> bytes:
        key = self.key_of(name)
        try:
            text: bytes = patiently(partial(self._filesystem.cat_file, key))
        except Exception as error:
            raise explained(error, key) from None
        return text

    def _exists(self, name: str) -> bool:
        try:
            info: Mapping[str, Any] = patiently(partial(self._filesystem.info, self.key_of(name)))
        except Exception as error:
            if is_absent(error):
                return False
            raise
        return bool(info.get("mimetype") != "text/html")  # else a page that says politely that there is no such file


def file_url(directory: str, name: str) -> str:
    """The URL of a file in a directory; a query (a signature) stays behind it."""
    parts = urlsplit(directory)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))


def http_options() -> dict[str, Any]:
    """Options of fsspec's file system for HTTP that it does not choose: time limits, proxies, sizes as on disk."""
    import aiohttp
    from fsspec.config import conf

    given = {**conf.get("http", {}), **conf.get("https", {})}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=60)
    return {
        "headers": {"Accept-Encoding": "identity", **given.get("headers", {})},
        "client_kwargs": {"trust_env": True, "timeout": timeout, **given.get("client_kwargs", {})},
    }


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
