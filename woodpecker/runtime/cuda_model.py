"""From the CUDA half of an artifact to a model on a GPU."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ArtifactError, TargetError
from . import cuda, cuda_driver
from .cuda import FEW_ROWS, Code, Launch, Model
from .format import DIRECTORY_BYTES, DIRECTORY_OFFSET


def load(manifest: Mapping[str, Any], blob: np.ndarray, number: int, what: str) -> Model:
    """The model on a GPU.

    Args:
        manifest: That of an artifact with CUDA code.
        blob: Its model blob, uint8.
        number: Of the GPU.
        what: The model, for messages: a path.

    Raises:
        ArtifactError: its CUDA code is damaged.
        TargetError: there is no driver, no such GPU or no code for it, or the driver fails.
    """
    # First, because it says best what is wrong with this machine.
    device = cuda_driver.device(number)
    codes, launches = contents(manifest, blob, what)
    rows_once = bool(manifest["cuda"].get("rows_once", False))
    return cuda.load(codes, launches, blob, device, few_rows=few_rows(manifest, what), rows_once=rows_once)


def here(manifest: Mapping[str, Any], blob: np.ndarray) -> tuple[Model | None, str | None]:
    """The model on this process's first GPU; or None, and why it runs on the CPU."""
    try:
        return load(manifest, blob, 0, "the model"), None
    except TargetError as error:
        return None, str(error)


def few_rows(manifest: Mapping[str, Any], what: str) -> int:
    """Rows for each multiprocessor up to which a row gets a block, as the plan says; in older artifacts it does not.

    Raises:
        ArtifactError: there is no plan.
    """
    try:
        found = manifest["cuda"]["plan"]["options"].get("cuda_few_rows")
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{what}: its CUDA code is damaged; compile and save the model again") from error
    return found if type(found) is int else FEW_ROWS


def contents(manifest: Mapping[str, Any], blob: np.ndarray, what: str) -> tuple[list[Code], dict[str, Launch]]:
    """Code for all architectures, and how entries are launched.

    Raises:
        ArtifactError: they are damaged.
    """
    try:
        cuda_half = manifest["cuda"]
        slots = blob[DIRECTORY_OFFSET + (cuda_half["directory"] + 1) * DIRECTORY_BYTES :][:DIRECTORY_BYTES].view("<i8")
        codes = []
        for at, described in zip(slots, cuda_half["codes"], strict=False):
            image = zlib.decompress(blob[int(at) : int(at) + described["stored"]].tobytes())
            # A GPU would run what is damaged, and compute something else.
            if hashlib.sha256(image).hexdigest() != described["sha256"]:
                raise ValueError("digest")
            codes.append(Code(described["kind"], described["arch"], image))
        launches = {**cuda_half["launches"], **cuda_half.get("spread", {})}
        return codes, {entry: Launch(*how) for entry, how in launches.items()}
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ArtifactError(f"{what}: its CUDA code is damaged; compile and save the model again") from error
