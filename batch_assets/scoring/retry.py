"""Errors that pass by themselves: what they are, and how long they are waited for."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from batch_assets.errors import BatchAssetsError, StillFailing

Result = TypeVar("Result")

WAITS = (0.1, 0.3, 1.0, 3.0)
"""Seconds before each further attempt."""

_PASSING = {
    getattr(errno, name)
    for name in ("EAGAIN", "EBUSY", "ECONNABORTED", "ECONNRESET", "EHOSTUNREACH", "EINTR", "ENETUNREACH", "ESTALE", "ETIMEDOUT")
}


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later: a lost connection, a time-out, a busy file."""
    if isinstance(error, BatchAssetsError):
        return error.__cause__ is not None and is_transient(error.__cause__)
    return isinstance(error, ConnectionError | TimeoutError) or (isinstance(error, OSError) and error.errno in _PASSING)


def patiently(call: Callable[[], Result], what: str) -> Result:
    """The result of a call that is repeated with growing waits while it fails with errors that pass.

    Raises:
        StillFailing: it failed so for as long as there is patience; what was committed stays.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            if wait is None:
                raise StillFailing(
                    f"{what} still fails after {len(WAITS) + 1} attempts ({type(error).__name__}: {error}); what is committed "
                    "stays, the same command resumes."
                ) from error
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")
