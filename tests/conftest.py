import gc
import sys
from pathlib import Path

import pytest
from hypothesis import settings

PROJECT = Path(__file__).parents[1]
SLOW = frozenset((PROJECT / "tests" / "slow.txt").read_text().split("\n"))


# A machine that others use takes its time.
settings.register_profile("likewise", deadline=None)
settings.load_profile("likewise")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    gc.freeze()  # thousands of tests, which the collector would else go through again and again


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
