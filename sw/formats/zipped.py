"""Zip archives from strangers, whose members are read whole: refused before they fill memory."""

from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

UNPACKED, RATIO = 1 << 28, 64
"""Most bytes of all members together, in all or for each byte of the archive: the greater counts.
Deflate can pack a thousand times, real weights and samples several times."""


def opened(file: BinaryIO) -> ZipFile:
    """The archive in ``file``; ``ValueError`` where it is encrypted, packed in a way that neither
    numpy nor torch writes, or too large unpacked.

    A member is never longer than it says, because reading stops there.
    """
    archive, size = ZipFile(file), file.seek(0, 2)
    members = archive.infolist()
    for member in members:
        if member.flag_bits & 1:
            raise ValueError(f"'{member.filename}' in it is encrypted")
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise ValueError(f"'{member.filename}' in it is packed by method "
                             f"{member.compress_type}; only stored and deflated ones are read")
    if len({member.filename for member in members}) != len(members):
        raise ValueError("two members of it have one name")
    unpacked, most = sum(member.file_size for member in members), max(UNPACKED, RATIO * size)
    if unpacked > most:
        raise ValueError(f"it would unpack to {unpacked:,} bytes, and {most:,} are the most for "
                         f"{size:,}; store it uncompressed")
    return archive
