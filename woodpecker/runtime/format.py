"""The model blob: one read-only, 64-byte aligned run of bytes that holds everything but code.

    offset  bytes  what
         0     16  magic
        16      4  format version
        20      4  ABI version of the compiled entries
        24      8  length of the blob
        32      8  offset of the manifest
        40      8  length of the manifest
        48      4  CRC-32 of the header (with this field 0), directory and manifest
        64     32  SHA-256 of everything from the directory on
       128    512  directory: 64 int64, scalars and byte offsets of tables, read by the kernels
       640         manifest (JSON, UTF-8), then the tables, each 64-byte aligned

All numbers are little-endian. In a `.so` the blob lies in a read-only section, where `find` locates it by its magic
without running anything.

Raising the format version: readers accept FORMAT and FORMAT - 1. Change the layout here, raise FORMAT by one, teach
`find` the difference, and keep an artifact of the old version under `tests/data` that a test still loads.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArtifactError

MAGIC = b"\x93WOODPECKER" + bytes([0x0D, 0x0A, 0x1A, 0x0A, 0x00])
FORMAT = 1
ABI = 1
ALIGNMENT = 64
DIRECTORY_OFFSET = 128
DIRECTORY_SLOTS = 64
MANIFEST_OFFSET = DIRECTORY_OFFSET + 8 * DIRECTORY_SLOTS
_HEADER = struct.Struct("<16sIIQQQI12x32s")


@dataclass(frozen=True)
class Header:
    """The checked header of a blob.

    Args:
        start: Where the blob begins in the file or buffer it was found in.
        length: Bytes of the blob.
        manifest: The parsed manifest.
        digest: SHA-256 of everything from the directory on, as stored.
    """

    start: int
    length: int
    manifest: dict[str, Any]
    digest: bytes


def aligned(nbytes: int) -> np.ndarray:
    """``nbytes`` zeroed uint8 that start at a 64-byte boundary; compiled code assumes it and does not check."""
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + nbytes]


def round_up(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def pack(directory: Mapping[int, int], tables: Mapping[int, np.ndarray], manifest: Mapping[str, Any]) -> np.ndarray:
    """A blob, read-only. ``directory`` maps slots to scalars, ``tables`` maps slots to arrays."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    offset = round_up(MANIFEST_OFFSET + len(text))
    slots = np.zeros(DIRECTORY_SLOTS, "<i8")
    for slot, scalar in directory.items():
        slots[slot] = scalar
    places = {}
    for slot, table in tables.items():
        slots[slot] = places[slot] = offset
        offset = round_up(offset + table.nbytes)
    blob = aligned(offset)
    blob[DIRECTORY_OFFSET:MANIFEST_OFFSET] = slots.view(np.uint8)
    blob[MANIFEST_OFFSET : MANIFEST_OFFSET + len(text)] = np.frombuffer(text, np.uint8)
    for slot, table in tables.items():
        little = np.ascontiguousarray(table, table.dtype.newbyteorder("<"))
        blob[places[slot] : places[slot] + table.nbytes] = little.reshape(-1).view(np.uint8)
    digest = hashlib.sha256(blob[DIRECTORY_OFFSET:].data).digest()
    fields = (MAGIC, FORMAT, ABI, offset, MANIFEST_OFFSET, len(text))
    blob[: _HEADER.size] = np.frombuffer(_HEADER.pack(*fields, 0, digest), np.uint8)
    crc = zlib.crc32(blob[: MANIFEST_OFFSET + len(text)].data)
    blob[: _HEADER.size] = np.frombuffer(_HEADER.pack(*fields, crc, digest), np.uint8)
    blob.flags.writeable = False
    return blob


def find(data: mmap.mmap | bytes, path: str) -> Header:
    """Locate and check the blob inside a file's bytes, without running anything.

    Raises:
        ArtifactError: there is none, it is cut short, its checksum is wrong, or its version is not supported.
    """
    start = data.find(MAGIC)
    if start < 0:
        raise ArtifactError(f"{path} is not a woodpecker artifact: it holds no model")
    damaged = f"{path}: the file is damaged or cut short; compile and save the model again"
    head = data[start : start + MANIFEST_OFFSET]
    if len(head) < MANIFEST_OFFSET:
        raise ArtifactError(damaged)
    _, version, abi, length, manifest_at, manifest_size, crc, digest = _HEADER.unpack(head[: _HEADER.size])
    if version not in (FORMAT, FORMAT - 1) or version == 0:
        raise ArtifactError(
            f"{path} has format version {version}; this woodpecker reads version {FORMAT}. Compile the model again, "
            "or use the woodpecker that made the file"
        )
    if manifest_at != MANIFEST_OFFSET or not MANIFEST_OFFSET + manifest_size <= length <= len(data) - start:
        raise ArtifactError(damaged)
    text = data[start + MANIFEST_OFFSET : start + MANIFEST_OFFSET + manifest_size]
    if zlib.crc32(text, zlib.crc32(head[:48] + bytes(4) + head[52:])) != crc:
        raise ArtifactError(f"{path}: wrong checksum; the file is damaged; compile and save the model again")
    if abi != ABI:
        raise ArtifactError(f"{path} has ABI version {abi}; this woodpecker calls version {ABI}. Compile it again")
    return Header(start, length, json.loads(text), digest)


def verify_digest(data: mmap.mmap | bytes, header: Header, path: str) -> None:
    """Compare the digest of the whole blob, which reads all of it.

    Raises:
        ArtifactError: it differs.
    """
    digest = hashlib.sha256()
    end = header.start + header.length
    for begin in range(header.start + DIRECTORY_OFFSET, end, 1 << 20):
        digest.update(data[begin : min(begin + (1 << 20), end)])
    if digest.digest() != header.digest:
        raise ArtifactError(f"{path}: the digest of the model differs; the file is damaged")
