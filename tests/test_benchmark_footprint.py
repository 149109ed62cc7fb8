"""Size and memory of static programs."""

from __future__ import annotations

import platform
import sys

import numpy as np
import pytest

from benchmarks import footprint

from .gallery import grown
from .qemu_support import needs_zig

HERE = (sys.platform, platform.machine())


@pytest.mark.full
@needs_zig
@pytest.mark.skipif(HERE != ("linux", "x86_64"), reason="the programs are for x86-64 Linux")
def test_what_a_program_takes(tmp_path):
    small = footprint.measure(grown(1, 4, 4, dtype=np.float32), tmp_path, (1, 100_000))
    large = footprint.measure(grown(1, 400, 7, dtype=np.float32), tmp_path, (1,))
    assert small.program < 1e6 and small.model < small.program and large.model < large.program
    assert large.program - small.program > large.model - small.model > 0
    # 100,000 rows of five float32 features, and a score each.
    rows = 100_000 * 4 * 6
    assert rows - 1e5 < small.peaks[1] - small.peaks[0] < rows + small.scratch + 2e5


def test_what_is_wrong_is_said(tmp_path, capsys):
    pytest.importorskip("ziglang")
    assert footprint.main([str(tmp_path / "absent.ubj")]) == 2
    assert "absent.ubj" in capsys.readouterr().err
