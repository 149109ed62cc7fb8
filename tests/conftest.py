"""Options of the test suite, and its Hypothesis profile: the same examples every time, and no files."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# One thread per test process: with several processes the libraries' OpenMP pools would spin against each other. Set
# before any of them is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Records that whoever runs the tests has in their home must not change what is compiled.
os.environ["WOODPECKER_TUNING_LOGS"] = os.devnull

import pytest
from hypothesis import HealthCheck, settings

MANY_CASES = 20
"""Of a test of the full tier, from which on its short form has half of them."""
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("woodpecker", deadline=None, database=None, derandomize=True, suppress_health_check=SLOW)
settings.load_profile("woodpecker")


@pytest.fixture(scope="session", autouse=True)
def no_shipped_records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nor must the shipped ones, which there are for some CPUs only."""
    from woodpecker.tuning import logs

    nowhere = tmp_path_factory.getbasetemp() / "shipped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "shipped", lambda: nowhere)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The short form of the full tier has half of the cases of tests with many: always the same, whatever their order,
    so that no strategy or target is favoured."""
    from .support import DEFAULT_ROWS, FULL_ROWS

    if FULL_ROWS >= DEFAULT_ROWS:
        return
    function = {item: item.nodeid.partition("[")[0] for item in items if item.get_closest_marker("full")}
    cases = Counter(function.values())
    left = {
        item for item, name in function.items() if cases[name] >= MANY_CASES and zlib.crc32(item.nodeid.encode()) & 1
    }
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def c_programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Programs that load the artifact that they are given, see tests/c."""
    from .c_support import SOURCES, make

    folder = tmp_path_factory.mktemp("programs")
    return {
        "run": make(SOURCES / "run.c", folder / "run"),
        "forked": make(SOURCES / "run.c", folder / "forked", "-DFORKED"),
        "refused": make(SOURCES / "refused.c", folder / "refused"),
    }


@pytest.fixture(scope="session")
def c_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with the three x86-64 levels."""
    import woodpecker as wp
    from woodpecker.forest import Method

    from .c_support import binary
    from .gallery import ALONE

    path = tmp_path_factory.mktemp("saved") / "model.so"
    forest = binary(methods={"predict": Method("value", "xgb_sigmoid")})
    wp.compile(forest, target="x86-64", strategy="tree_traversal", **ALONE["tree_traversal"]).save(path)
    return path
