"""Shared by all tests: `--slow`, and a step store of their own, so that none sees another run's."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        skip = pytest.mark.skip(reason="needs --slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def _own_store(tmp_path_factory):
    os.environ["TFCOMPRESS_CACHE"] = str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"
