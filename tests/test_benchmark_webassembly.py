"""Times of modules in Node.js."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import webassembly
from woodpecker import reference
from woodpecker.errors import StrategyError

from .gallery import FORESTS, grown
from .qemu_support import needs_zig
from .wasm_support import needs_node


@pytest.mark.full
@needs_zig
@needs_node
def test_more_trees_take_longer(tmp_path, monkeypatch):
    def timed(trees: int) -> dict[int, list[float]]:
        forest = grown(1, trees, 6, dtype=np.float32)
        return webassembly.measure(forest, tmp_path, ["tree_traversal"], (1, 512), 1.0)["tree_traversal"]

    few, many = timed(2), timed(100)
    assert few.keys() == many.keys() == {1, 512}
    assert len(many[512]) > 5 and min(many[512]) > 3 * min(few[512]) > 0
    with pytest.raises(StrategyError, match="none of scan can serve"):
        webassembly.measure(FORESTS["deep"](), tmp_path, ["scan"], (1,), 1.0)
    right = reference.predict_raw
    monkeypatch.setattr(reference, "predict_raw", lambda *given: np.nextafter(right(*given), np.float32(9)))
    with pytest.raises(RuntimeError, match="tree_traversal computes other bits"):
        timed(2)


@needs_zig
@needs_node
def test_what_is_wrong_is_said(tmp_path, capsys):
    assert webassembly.main([str(tmp_path / "absent.ubj")]) == 2
    assert "absent.ubj" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        webassembly.main([str(tmp_path / "absent.ubj"), "--batch", "0"])
    assert "--batch 0: it must be 1 or more" in capsys.readouterr().err
