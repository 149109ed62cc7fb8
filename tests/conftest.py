"""Options of the test suite, and its Hypothesis profile: the same examples every time, and no files."""

from __future__ import annotations

import os

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew instead of comparing")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))
