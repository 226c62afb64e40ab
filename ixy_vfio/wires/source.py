"""The bytes of a capture file from its beginning, decompressed where need be."""

import gzip
import zlib
from typing import BinaryIO

from ixy_vfio.core.errors import CaptureError
from ixy_vfio.wires.packets import BrokenCapture

GZIP = b"\x1f\x8b"
_PIECE = 1 << 16

# First bytes of files that are not read, and what to do about it.
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "a zstd file: decompress it (zstd -d)",
    b"\x04\x22\x4d\x18": "an lz4 file: decompress it (lz4 -d)",
    b"\xfd7zX": "an xz file: decompress it (xz -d)",
    b"BZh": "a bzip2 file: decompress it (bzip2 -d)",
    b"PK\x03\x04": "a zip file: unpack it (unzip)",
    b"\x1f\x9d": "a file of compress: decompress it (uncompress)",
    GZIP: "compressed twice: decompress it (gzip -d)",
    b"\xa1\xb2\xcd\x34": "a modified pcap file (Kuznetzov's): convert it (editcap -F pcapng IN OUT)",
    b"\x34\xcd\xb2\xa1": "a modified pcap file (Kuznetzov's): convert it (editcap -F pcapng IN OUT)",
    b"\x1c\x00\x01\xab": "an Ixia capture: convert it (editcap -F pcapng IN OUT)",
    b"\x1c\x00\x01\xac": "an Ixia capture: convert it (editcap -F pcapng IN OUT)",
    b"snoo": "a snoop file: convert it (editcap -F pcapng IN OUT)",
    b"RTSS": "a Network Monitor file: convert it (editcap -F pcapng IN OUT)",
    b"GMBU": "a Network Monitor file: convert it (editcap -F pcapng IN OUT)",
}


def refuse(magic: bytes) -> CaptureError:
    """What to say about a file that begins with `magic`, which is neither pcapng nor pcap."""
    if not magic:
        return CaptureError("the file is empty")
    for start, name in _OTHERS.items():
        if magic.startswith(start):
            return CaptureError(f"this is {name}")
    return CaptureError("this is neither a pcapng nor a pcap file")


class Source:
    """Reads forward only. Memory does not depend on what the file says of itself."""

    def __init__(self, file: BinaryIO) -> None:
        """Starts at the beginning of `file`, which must be seekable; `file` stays the caller's."""
        file.seek(0)
        compressed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        self._file: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=file, mode="rb") if compressed else file
        self.position = 0  # bytes read so far, decompressed

    def upto(self, size: int) -> bytes:
        """The next `size` bytes, or those that are left. Raises BrokenCapture."""
        try:
            data = self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BrokenCapture(f"byte {self.position}: the gzip data are damaged or cut: {error}") from None
        except OSError as error:
            raise BrokenCapture(f"byte {self.position}: {error.strerror or error}") from None
        self.position += len(data)
        return data

    def exactly(self, size: int, what: str) -> bytes:
        """The next `size` bytes of `what`. Raises BrokenCapture when there are fewer."""
        start = self.position
        data = self.upto(size)
        if len(data) < size:
            raise BrokenCapture(f"byte {start}: {len(data)} of {size} bytes of {what} are there")
        return data

    def skip(self, size: int, what: str) -> None:
        """Leave out `size` bytes of `what`. Raises BrokenCapture when there are fewer."""
        while size > 0:
            size -= len(self.exactly(min(size, _PIECE), what))
