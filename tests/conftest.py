"""What every test file shares: tools that may be absent, and the real data beside the checkout."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import chromium, open_page
from cohort import finished, pristine
from toysteps import number, toy

__all__ = ["chromium", "finished", "need_tool", "number", "open_page", "pristine", "real_data", "toy"]


@pytest.fixture(scope="session")
def need_tool() -> Callable[[str], Path]:
    """The path of a command-line tool.

    Where it is absent the test skips with the reason; it fails when SOMITE_REQUIRE names the tool, as in CI.
    """

    def need(name: str) -> Path:
        beside_python = str(Path(sys.executable).parent)
        found = shutil.which(name, path=os.pathsep.join((beside_python, os.environ.get("PATH", ""))))
        if found:
            return Path(found)
        if name in os.environ.get("SOMITE_REQUIRE", "").replace(",", " ").split():
            pytest.fail(f"{name} is not installed, and SOMITE_REQUIRE names it")
        pytest.skip(f"{name} is not installed")

    return need


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real scans: $SOMITE_TEST_DATA, or ../shared/data beside the checkout.

    Absent, the test skips with the reason; it fails when SOMITE_REQUIRE names `real-data`.
    """
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SOMITE_TEST_DATA", beside))
    if folder.is_dir():
        return folder
    if "real-data" in os.environ.get("SOMITE_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"no real data at {folder}, and SOMITE_REQUIRE names it")
    pytest.skip(f"no real data at {folder}; set SOMITE_TEST_DATA")
