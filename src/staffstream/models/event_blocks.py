"""Cutting an event stream into its events' blocks: bytes in, blocks out, no I/O.

Each byte is searched once and copied a few times, however small the reads are in which a large event comes.
"""


class BlockReader:
    """The bytes of an event stream in, whole blocks out: an event's lines without the blank line that ends it.

    Line ends become LF. LF is what Claude sends; CRLF may be a proxy's.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the block that is not yet whole
        self._held = b""  # its last byte, if it is a line end: CR may belong to an LF, LF to a blank line
        self.pending_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that these bytes complete."""
        if self._held:
            data = self._held + data
            self._held = b""
        if b"\r" in data:
            data = self._convert_line_ends(data)
        first, *more = data.split(b"\n\n")
        if not more:
            self._keep(first)
            return []
        blocks = [b"".join([*self._parts, first]), *more[:-1]]
        self._parts.clear()
        self.pending_bytes = 0
        self._keep(more[-1])
        return blocks

    def _convert_line_ends(self, data: bytes) -> bytes:
        if data.endswith(b"\r"):
            self._held, data = b"\r", data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, part: bytes) -> None:
        if part.endswith(b"\n"):
            self._held, part = b"\n" + self._held, part[:-1]
        if part:
            self._parts.append(part)
            self.pending_bytes += len(part)
