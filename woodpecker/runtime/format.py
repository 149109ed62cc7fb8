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
       128  n*512  n directories, one a step of the plan of each CPU level, and two or three for CUDA code: 64 int64
                   each, scalars and byte offsets of tables; then the manifest (JSON, UTF-8), then the tables, each
                   64-byte aligned

All numbers are little-endian. In a `.so` the blob lies in a read-only section, where `find` locates it by its magic
without running anything.

Raising the format version: readers accept FORMAT and FORMAT - 1. Change the layout here, raise FORMAT by one, teach
`find` the difference, and keep an artifact of the old version under `tests/data` that a test still loads.

Version 1 had one CPU level, whose fields were the manifest's own, and no tuning.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError
from . import strict_json

MAGIC = b"\x93WOODPECKER" + bytes([0x0D, 0x0A, 0x1A, 0x0A, 0x00])
FORMAT = 2
ABI = 1
ALIGNMENT = 64
DIRECTORY_OFFSET = 128
DIRECTORY_SLOTS = 64
DIRECTORY_BYTES = 8 * DIRECTORY_SLOTS
_LEVEL_OF_FORMAT_1 = ("target", "row_block", "scratch_bytes", "ns_per_row", "plan")
_HEADER = struct.Struct("<16sIIQQQI12x32s")


@dataclass(frozen=True)
class Header:
    """The checked header of a blob.

    Args:
        start: Where the blob begins in the file or buffer it was found in.
        length: Bytes of the blob.
        manifest: The parsed manifest, in the current version's form.
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


Directory = tuple[Mapping[int, int], Mapping[int, np.ndarray]]
"""Slot -> scalar, and slot -> table."""


def pack(directories: Sequence[Directory], manifest: Mapping[str, Any]) -> np.ndarray:
    """A blob, read-only. Tables of the same bytes are stored once."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    manifest_offset = DIRECTORY_OFFSET + DIRECTORY_BYTES * len(directories)
    offset = round_up(manifest_offset + len(text))
    slots = np.zeros((len(directories), DIRECTORY_SLOTS), "<i8")
    places: dict[bytes, tuple[int, np.ndarray]] = {}
    for row, (scalars, tables) in zip(slots, directories, strict=True):
        for slot, scalar in scalars.items():
            row[slot] = scalar
        for slot, table in tables.items():
            stored = np.ascontiguousarray(table, table.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
            key = hashlib.sha256(stored.data).digest()
            if key not in places:
                places[key] = (offset, stored)
                offset = round_up(offset + stored.nbytes)
            row[slot] = places[key][0]
    blob = aligned(offset)
    blob[DIRECTORY_OFFSET:manifest_offset] = slots.reshape(-1).view(np.uint8)
    blob[manifest_offset : manifest_offset + len(text)] = np.frombuffer(text, np.uint8)
    for begin, stored in places.values():
        blob[begin : begin + stored.nbytes] = stored
    digest = hashlib.sha256(blob[DIRECTORY_OFFSET:].data).digest()
    fields = (MAGIC, FORMAT, ABI, offset, manifest_offset, len(text))
    blob[: _HEADER.size] = np.frombuffer(_HEADER.pack(*fields, 0, digest), np.uint8)
    crc = zlib.crc32(blob[: manifest_offset + len(text)].data)
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
    head = data[start : start + DIRECTORY_OFFSET]
    if len(head) < DIRECTORY_OFFSET:
        raise ArtifactError(damaged)
    _, version, abi, length, manifest_at, manifest_size, crc, digest = _HEADER.unpack(head[: _HEADER.size])
    if version not in (FORMAT, FORMAT - 1):
        raise ArtifactError(
            f"{path} has format version {version}; this woodpecker reads versions {FORMAT - 1} and {FORMAT}. Compile "
            "the model again, or use the woodpecker that made the file"
        )
    if not DIRECTORY_OFFSET <= manifest_at <= manifest_at + manifest_size <= length <= len(data) - start:
        raise ArtifactError(damaged)
    head = data[start : start + manifest_at]
    text = data[start + manifest_at : start + manifest_at + manifest_size]
    if zlib.crc32(text, zlib.crc32(head[:48] + bytes(4) + head[52:])) != crc:
        raise ArtifactError(f"{path}: wrong checksum; the file is damaged; compile and save the model again")
    if abi != ABI:
        raise ArtifactError(f"{path} has ABI version {abi}; this woodpecker calls version {ABI}. Compile it again")
    try:
        manifest = strict_json.parse(text)
        if version == 1:
            level = {key: manifest.pop(key) for key in _LEVEL_OF_FORMAT_1}
            manifest["levels"] = [{**level, "suffix": "", "tuning": None}]
        targets = [level["target"] for level in manifest["levels"]]
    except (AttributeError, KeyError, TypeError, InputError):
        raise ArtifactError(damaged) from None
    if not targets or not all(isinstance(target, dict) for target in targets):
        raise ArtifactError(damaged)
    return Header(start, length, manifest, digest)


def in_level(manifest: Mapping[str, Any], number: int | None) -> dict[str, Any]:
    """The manifest with the fields of a CPU level beside its own, and ``level``, that level's number.

    Where no level can run, ``level`` is None, and the fields are those of the last one.
    """
    return {**manifest, **manifest["levels"][-1 if number is None else number], "level": number}


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
