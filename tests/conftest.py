"""Options of the test suite, and its Hypothesis profile: the same examples every time, and no files."""

from __future__ import annotations

import os
from collections.abc import Iterator

# One thread per test process: with several processes the libraries' OpenMP pools would spin against each other. Set
# before any of them is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Records that whoever runs the tests has in their home must not change what is compiled.
os.environ["WOODPECKER_TUNING_LOGS"] = os.devnull

import pytest
from hypothesis import HealthCheck, settings

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


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
