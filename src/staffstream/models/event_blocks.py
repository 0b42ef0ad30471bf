"""Cuts an event stream into the blocks of its events: bytes in, blocks out, no I/O.

Each byte is searched once and copied a few times, even when a large event arrives in many small reads.
"""


class BlockReader:
    """Turns the bytes of an event stream into whole blocks: the lines of an event, without its blank line.

    Line ends become LF. Claude sends LF; a proxy may change that to CRLF.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the incomplete block
        self._held = b""  # its last line end: an LF may follow a CR, and a blank line an LF
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
            self._append_part(first)
            return []
        blocks = [b"".join([*self._parts, first]), *more[:-1]]
        self._parts.clear()
        self.pending_bytes = 0
        self._append_part(more[-1])
        return blocks

    def _convert_line_ends(self, data: bytes) -> bytes:
        if data.endswith(b"\r"):
            self._held, data = b"\r", data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _append_part(self, part: bytes) -> None:
        if part.endswith(b"\n"):
            self._held, part = b"\n" + self._held, part[:-1]
        if part:
            self._parts.append(part)
            self.pending_bytes += len(part)
