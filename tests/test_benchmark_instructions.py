"""Instructions of other CPUs are counted by QEMU."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from benchmarks import instructions
from woodpecker.errors import StrategyError

from .gallery import FORESTS, grown
from .qemu_support import needs_zig


@pytest.mark.full
@pytest.mark.qemu
@needs_zig
@pytest.mark.skipif(not shutil.which("qemu-riscv64"), reason="there is no qemu-riscv64")
def test_counts_grow_with_the_trees(tmp_path):
    def counted(trees: int) -> float:
        forest = grown(1, trees, 4, dtype=np.float32)
        return instructions.measure(forest, "riscv64-linux-musl", "tree_traversal", tmp_path, "qemu-riscv64", rows=64)

    few, many = counted(4), counted(40)
    # At least four instructions a level, and no more than a few dozen.
    assert 36 * 4 * 3 < many - few < 36 * 4 * 40
    with pytest.raises(StrategyError):
        instructions.measure(FORESTS["deep"](), "riscv64-linux-musl", "scan", tmp_path, "qemu-riscv64")
    (tmp_path / "program").write_bytes(b"")
    with pytest.raises(RuntimeError, match="exit code"):
        instructions.count(tmp_path / "program", "qemu-riscv64", 1)


def test_what_is_wrong_is_said(tmp_path, capsys):
    pytest.importorskip("ziglang")
    assert instructions.main([str(tmp_path / "absent.ubj"), "--target", "x86_64-linux-cuda"]) == 2
    assert "does not compile for" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        instructions.main([str(tmp_path / "absent.ubj"), "--target", "wasm32-wasi"])
    assert "there is no emulator for it" in capsys.readouterr().err
