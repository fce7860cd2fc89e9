import sys

import pytest


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
