"""A binary file whose bytes are rewritten while it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recdistill.data.table_streams import READ_BYTES

Rewrite = Callable[[bytes, bool], tuple[bytes, bytes]]
"""Called with some bytes and whether they are the last. Returns them rewritten, and the
bytes at their end that have to wait for what follows; none of the last ones may wait.
"""


class RewrittenFile:
    """Binary file that rewrites another one, a few bytes at a time.

    Args:
        source: The other file, with `read` and `close`.
        rewrite: Rewrites the bytes.
    """

    def __init__(self, source: Any, rewrite: Rewrite) -> None:
        self._source, self._rewrite = source, rewrite
        self._held = self._ready = b""
        self.closed = False

    def read(self, size: int = READ_BYTES) -> bytes:
        """The next bytes, at most `size`; b"" at the end."""
        size = READ_BYTES if size < 0 else size
        while not self._ready:
            chunk = self._source.read(READ_BYTES)
            whole = self._held + chunk
            self._ready, self._held = self._rewrite(whole, not chunk)
            if not chunk:
                break
        part, self._ready = self._ready[:size], self._ready[size:]
        return part

    def close(self) -> None:
        """Closes the other file."""
        self._source.close()
        self.closed = True
