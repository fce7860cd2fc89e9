"""A Milvus server on loopback, in a process of its own, to be asked, stopped and killed.

The server comes with the package `milvus`, whose Python LIKEWISE_MILVUS_PYTHON names. It needs
an environment of its own, `python -m venv V && V/bin/pip install --no-deps milvus==2.3.5`.
"""

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PYTHON = "LIKEWISE_MILVUS_PYTHON"
COMPONENTS = (
    "rootCoord",
    "proxy",
    "queryCoord",
    "queryNode",
    "indexNode",
    "dataCoord",
    "dataNode",
)
# What a test waits for in vain: the server looks for work to do more often.
SOON = {
    "proxy.timeTickInterval": 50,
    "queryCoord.checkInterval": 200,
    "queryCoord.checkHandoffInterval": 500,
    "queryCoord.distPullInterval": 100,
}
START = """
import json, signal, socket, sys
from milvus import MilvusServer, MilvusServerConfig
def bound(port):  # also where connections of a server that was killed have not timed out
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        one.close()
        return None
    return one
folder, port, more, components = json.loads(sys.argv[1])
config = MilvusServerConfig(data_dir=folder, proxy_port=port)
config.try_bind_port = bound
for component in components:  # they find each other on loopback
    config.set(component + ".ip", "127.0.0.1")
for name, value in more.items():
    config.set(name, value)
server = MilvusServer(config, wait_for_started=False)
server.start()
print(json.dumps([server.server_proc.pid, server.webservice_port]), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    sys.stdin.read()
finally:
    server.server_proc.kill()
"""


def why_not():
    """Why no server can be started here; None where one can."""
    python = os.environ.get(PYTHON)
    if not python:
        return f"{PYTHON} names no Python that has the package milvus"
    if not Path(python).exists():
        return f"{PYTHON} names {python}, which is not there"
    return None


def free_port():
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A standalone server; `kill` ends it at once, `start` goes on with what it kept.

    One at a time on a machine: the store within it listens on port 2380, which cannot be chosen.

    Args:
        folder: where it keeps everything.
        more: Settings beside those of the package, by their names in its configuration.
    """

    def __init__(self, folder, **more):
        self.folder, self.more = Path(folder), more
        self.port = free_port()
        self.helper = self.pid = None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        """Begin, and return when it says that it is healthy; how many seconds that took."""
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        unpacked = Path(os.environ[PYTHON]).parent.parent / "milvus-unpacked"
        unpacked.mkdir(exist_ok=True)
        if not (self.folder / "bin").exists():
            (self.folder / "bin").symlink_to(unpacked)  # 300 MB, which take 20 s to unpack
        asked = json.dumps([str(self.folder), self.port, {**SOON, **self.more}, COMPONENTS])
        self.helper = subprocess.Popen(
            [os.environ[PYTHON], "-c", START, asked],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid, health = json.loads(self.helper.stdout.readline())
        self._wait(health)
        return time.monotonic() - started

    def kill(self):
        """End it at once, as a failure of power would end the process."""
        os.kill(self.pid, signal.SIGKILL)
        self._gone()

    def stop(self):
        """End it, if it runs; what it acknowledged is kept."""
        if self.helper is not None:
            self._gone()

    def _gone(self):
        self.helper.stdin.close()
        self.helper.wait()
        self.helper.stdout.close()
        self.helper = None

    def _wait(self, health, seconds=120):
        from urllib.request import ProxyHandler, build_opener

        opener = build_opener(ProxyHandler({}))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(OSError):
                with opener.open(f"http://127.0.0.1:{health}/healthz", timeout=5) as answer:
                    if b"OK" in answer.read():
                        return
            time.sleep(0.1)
        raise TimeoutError(f"no healthy server within {seconds} s, see {self.folder / 'logs'}")
