"""Options of the test suite, and its Hypothesis profile: the same examples every time, and no files."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

# One thread per test process: with several processes the libraries' OpenMP pools would spin against each other. Set
# before any of them is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Records that whoever runs the tests has in their home must not change what is compiled.
os.environ["WOODPECKER_TUNING_LOGS"] = os.devnull

import pytest
from hypothesis import HealthCheck, settings

SHORT_FORM = ((20, 4), (8, 2))
"""Of a test of the full tier with so many cases, the short form takes one in so many."""
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Divide the cases of tests among the tiers.

    Of a test marked ``sampled(n)`` the fast tier has one case in n, the full tier the others; of a test with many cases
    the short form of the full tier has some. Which ones follows from their names alone, so that no strategy or target
    is favoured, and all workers agree.
    """
    from .support import SHORT

    for cases in _by_function(item for item in items if not item.get_closest_marker("full")):
        sampled = cases[0].get_closest_marker("sampled")
        for item in cases[-(-len(cases) // sampled.args[0]) :] if sampled else ():
            item.add_marker(pytest.mark.full)
    if not SHORT:
        return
    left = set()
    for cases in _by_function(item for item in items if item.get_closest_marker("full")):
        one_in = next((one_in for least, one_in in SHORT_FORM if len(cases) >= least), 1)
        left.update(cases[-(-len(cases) // one_in) :])
    config.hook.pytest_deselected(items=[item for item in items if item in left])
    items[:] = [item for item in items if item not in left]


def _by_function(items: Iterable[pytest.Item]) -> list[list[pytest.Item]]:
    """The cases of each test, in an order without meaning."""
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        functions.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [sorted(cases, key=lambda item: zlib.crc32(item.nodeid.encode())) for cases in functions.values()]


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
