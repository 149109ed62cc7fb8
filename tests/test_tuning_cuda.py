"""Tuning jobs for GPUs, from the job to what compile makes of its record, on a driver that emulates a GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.cli import main
from woodpecker.errors import InputError, TargetError
from woodpecker.predicates import canonicalise
from woodpecker.runtime import candidates, cuda_driver, on_device
from woodpecker.runtime.measure_cuda import Candidate, read
from woodpecker.schedules import cuda_plan
from woodpecker.targets_cuda import CudaTarget
from woodpecker.tuning import halves, job, lookup, offline, records, shape, space

from .cuda_support import emulated_gpu, fake_driver
from .gallery import ALONE, grown, rows
from .support import assert_bits_equal

ROOT = Path(wp.__file__).parents[1]
TARGET = "cuda -arch=sm_90"
BATCHES = (1, 300)
EMULATED = {"name": "an emulated GPU", "arch": "sm_90", "multiprocessors": 2}


@pytest.fixture(scope="module")
def forest():
    return grown(1, 4, 3, dtype=np.float32)


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """A driver as a loader finds it, and what candidates are compiled to beside it."""
    folder = tmp_path_factory.mktemp("cuda")
    return fake_driver(folder).rename(folder / "libcuda.so.1")


@pytest.fixture
def gpu(fake, monkeypatch):
    """Jobs and their workers have the emulated GPU, and few rows, because it is slow."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake))
    monkeypatch.setattr(offline, "WORKER", (str(Path(__file__).with_name("tuning_cuda.py")),))
    monkeypatch.setattr(job, "N_ROWS", 200)
    monkeypatch.setattr(job, "LEAST_ROWS", 200)
    monkeypatch.setattr(job, "N_CHECK", 50)
    monkeypatch.setenv("WOODPECKER_TEST_CUDA", str(fake))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake.parent))  # of measuring processes, which have nothing but it
    return fake


def step(**options):
    return {"min_rows": 0, "strategy": "perfect_tree_traversal", "options": options}


@pytest.mark.usefixtures("gpu")
def test_a_job_leaves_a_record_that_compile_takes(forest, tmp_path):
    seen = []
    result = offline.tune(
        forest, target=TARGET, trials=4, batches=BATCHES, work_dir=tmp_path / "work", tuning_logs=tmp_path / "logs",
        progress=seen.append,
    )  # fmt: skip
    assert [t["status"] for t in seen] == ["ok"] * 4
    assert set(seen[0]["ns"]) == {"1", "300"}
    key = result.record.target
    assert (key.kind, key.machine, key.cpu, key.cores) == ("cuda", "sm_90", "an-emulated-gpu", 2)
    assert result.path.parent.name == "cuda-sm_90-an-emulated-gpu-2c"
    assert records.read(tmp_path / "logs")[0].record == result.record
