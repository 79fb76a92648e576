"""What of a URL may be shown: where it leads, not who may go there."""

from __future__ import annotations

import re

# To the next blank: a query may hold quotes and brackets. Without a scheme it is what HTTP clients call a "url".
_URL = re.compile(r"(?:\w[\w+.-]*://|(?<!\S)/(?=\S*\?\S*=))\S*")
_TAIL = re.compile(r"[?#;].*", re.DOTALL)
_CLOSING = re.compile(r"[]})>'\"`.,:;!?]*$")  # of the text around it, not of the URL
_NO_PORT = re.compile(r"[^/\[\]:]*:(?!\d*$)[^/]*")


def without_secrets(text: str) -> str:
    """A text whose URLs have lost user, password, query, fragment and parameters: tokens and signatures are in those.

    Where a URL is not one by the rules (a password with ``/`` in it), rather too much is left out than too little.
    """
    return _URL.sub(lambda found: _shown(found[0]), text)


def _shown(url: str) -> str:
    place = _TAIL.sub("", url)
    first, *others = place.split("://")  # several, where one is read through another
    shown = "://".join([first, *map(_without_user, others)])
    tail = url[len(place) :]
    if "@" in tail and _NO_PORT.fullmatch(others[-1] if others else ""):
        shown = shown.removesuffix(others[-1]) + "…"  # the tail began within a password
    closing = _CLOSING.search(tail)
    return shown + (closing[0] if closing else "")


def _without_user(place: str) -> str:
    """What follows ``://``, without user and password."""
    authority = place.partition("/")[0]
    user, at, _ = authority.rpartition("@")
    if at and ":" not in user:
        return place.removeprefix(user + at)
    if ":" in authority and "@" in place:
        before, _, rest = place.rpartition("@")
        return f"…@{rest}" if "/" in before else rest
    return place
