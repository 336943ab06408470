"""Where a warehouse is, and what nobody may read of how one gets there."""

import re
from collections.abc import Collection
from urllib.parse import unquote, urlsplit

_WORD = re.compile(r"\w{3,}")
_REASON = re.compile(r"(?:ERROR|FATAL|PANIC):\s+(.+)")
_SECRET_NAME = re.compile(r"pass|pwd|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
_SETTING = re.compile(r"(?:^|[?&;\s])(\w+)\s*=")
_HIDDEN = "…"


def names_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret, as far as its name tells."""
    return _SECRET_NAME.search(name) is not None


def has_secret(uri: str) -> bool:
    """Whether there is a password in an address, or what may be one."""
    user, _, _ = uri.partition("://")[2].rpartition("@") if "://" in uri else uri.rpartition("@")
    return ":" in user or any(names_secret(name) for name in _SETTING.findall(uri))


def shown(driver: str, uri: str) -> str:
    """An address for people: host, port and path without user, password and settings; the driver alone if that is unclear."""
    try:
        parts = urlsplit(uri if "://" in uri else f"{driver}://{uri}")
        port = parts.port
    except ValueError:
        return driver
    if "@" in parts.path + parts.query + parts.fragment or "=" in parts.netloc + parts.path or " " in uri:
        return driver
    return f"{driver}://{parts.hostname}{f':{port}' if port else ''}{parts.path}" if parts.hostname else driver


def reason(error: BaseException, secrets: Collection[str], known: str) -> str:
    """What a driver says of a failure, in one line, without secrets.

    Args:
        error: what it raised.
        secrets: what must not be read of it, in any part: a whole address with a password in it.
        known: what may be read all the same: the address without.
    """
    found = _REASON.search(str(error))
    said = found[1] if found else (str(error).splitlines() or [type(error).__name__])[0]
    hidden = {part for secret in secrets for part in (secret, unquote(secret))}
    for part in sorted(hidden, key=len, reverse=True):
        said = said.replace(part, _HIDDEN)
    said = _WORD.sub(lambda word: _HIDDEN if _is_part(word[0], hidden) and word[0] not in known else word[0], said)
    return said.strip().rstrip(".")


def _is_part(word: str, secrets: Collection[str]) -> bool:
    return any(word in secret for secret in secrets)
