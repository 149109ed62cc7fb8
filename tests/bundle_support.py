"""What tests of bundles share: a classifier, and the commands of a README."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from woodpecker.forest import Forest, Method

from .gallery import grown

METHODS = {"predict": Method("label", "sigmoid"), "predict_proba": Method("proba", "sigmoid")}


def classifier(dtype: Any = np.float64) -> Forest:
    return grown(31, 8, 4, dtype=dtype, base_score=0.5, methods=METHODS, classes=(np.array(["no", "yes"]),))


def run(command: str, folder: Path) -> str:
    """What a shell prints; it has to succeed."""
    done = subprocess.run(["sh", "-ec", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
