import sys

import pytest


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command in this process: its status, standard output and standard error."""
    from likewise.cli import commands

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["likewise", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            commands.main()
        told = capsys.readouterr()
        return stopped.value.code, told.out, told.err

    return run
