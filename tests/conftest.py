import os
import shutil
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SLOW = frozenset((PROJECT / "tests" / "slow.txt").read_text().split("\n"))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.split("[")[0] in SLOW:
            item.add_marker("slow")


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command in this process: its status, standard output and standard error."""
    from likewise import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["likewise", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        told = capsys.readouterr()
        return stopped.value.code, told.out, told.err

    return run


@pytest.fixture(scope="module")
def browser():
    """Chromium. Where there is none: a skip, or a failure if LIKEWISE_TEST_BROWSER is set."""
    if not os.environ.get("LIKEWISE_TEST_BROWSER"):
        pytest.importorskip("playwright", reason="Playwright is not installed")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as player:
        arguments = ["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []
        for path in (None, shutil.which("chromium"), shutil.which("google-chrome")):
            try:
                found = player.chromium.launch(executable_path=path, args=arguments)
                break
            except Error:
                continue
        else:
            leave = pytest.fail if os.environ.get("LIKEWISE_TEST_BROWSER") else pytest.skip
            leave("no Chromium is installed")
        yield found
        found.close()
