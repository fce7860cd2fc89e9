"""The service as a process: its connections, its keys and log, kills, and how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import fields

import numpy as np
import pytest
import torch

import likewise as lw

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("httptools", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from likewise.service import Settings, opening, running
from likewise.service.application import Application
from likewise.service.routes import Routes
from services import Running


def small_model():
    model = lw.SimilarityModel(None)
    model.index.add(torch.eye(3), labels=["a", "b", "c"])
    return model


class Service(Running):
    """A small service, and how to speak with it."""

    def __init__(self, **settings):
        super().__init__(Application(Routes(small_model(), Settings(**settings))))

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def said(self, sent, parts=1):
        """What comes back until the service closes, or has answered."""
        with self.connect() as line:
            line.settimeout(30)
            for _ in range(parts):
                try:
                    line.sendall(sent)
                except OSError:
                    break
            return everything(line)


def everything(line):
    """All that comes until the other side closes, or an answer is whole."""
    data = b""
    try:
        while more := line.recv(65_536):
            data += more
            head, found, body = data.partition(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if found and b"connection: close" not in head and len(body) >= int(length):
                return data
    except ConnectionError:
        pass
    return data


def envelope(data):
    head, _, body = data.partition(b"\r\n\r\n")
    told = json.loads(body)
    assert set(told) == {"code", "sentence", "request_id"}
    return int(head[9:12]), told["code"]


ASK = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_what_is_no_http_is_refused_in_the_envelope():
    with Service() as service:
        for sent in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"POST /v1/match HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/match HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        ):
            assert envelope(service.said(sent)) == (400, "malformed"), sent
        assert service.said(ASK).startswith(b"HTTP/1.1 200")


def test_a_head_is_short_and_comes_in_time(monkeypatch):
    monkeypatch.setattr(running, "HEAD_SECONDS", 0.3)
    with Service() as service:
        start = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n"
        assert envelope(service.said(start)) == (408, "too_slow")
        with service.connect() as silent:
            assert envelope(everything(silent)) == (408, "too_slow")
        many = start + b"X: " + b"x" * 8000
        assert envelope(service.said(many + b"x" * 70_000)) == (400, "malformed")
        with service.connect() as line:  # a connection that stays may ask again and again
            for _ in range(3):
                line.sendall(ASK)
                assert everything(line).startswith(b"HTTP/1.1 200")


def test_a_body_comes_in_time():
    with Service(body_seconds=0.3) as service:
        head = b"POST /v1/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow = head + b'Content-Length: 100\r\n\r\n{"items"'
        assert envelope(service.said(slow)) == (408, "too_slow")
        assert service.application.budget.taken == 0


def test_a_body_that_is_too_long_is_refused_and_heard():
    with Service(most_bytes=100_000) as service:
        head = b"POST /v1/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        long = head + b"Content-Length: 300000\r\n\r\n" + b"x" * 300_000
        assert envelope(service.said(long)) == (413, "too_large")
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
        with service.connect() as line:
            line.sendall(chunked)
            for _ in range(15):
                line.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            line.sendall(b"0\r\n\r\n")
            assert envelope(everything(line)) == (413, "too_large")
        assert service.application.budget.taken == 0


def test_connections_beyond_the_limit_are_refused_and_the_others_are_served():
    with Service(most_connections=5) as service:
        first = [service.connect() for _ in range(5)]
        for line in first:
            line.sendall(ASK)
            assert everything(line).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            assert envelope(service.said(ASK)) == (503, "busy")
        for line in first:
            line.sendall(ASK)
            assert everything(line).startswith(b"HTTP/1.1 200")
            line.close()
        while True:  # until the service has seen that they left
            if (data := service.said(ASK)).startswith(b"HTTP/1.1 200"):
                break
            assert envelope(data) == (503, "busy")


def test_a_client_that_leaves_harms_nobody():
    with Service() as service:
        body = b'{"items": [{"vector": [1, 0, 0]}], "k": 1}'
        head = b"POST /v1/lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        whole = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        for sent in (whole[:-10], whole, whole[:40]):
            with service.connect() as line:
                line.sendall(sent)
        for _ in range(20):
            assert service.said(whole).startswith(b"HTTP/1.1 200")
        assert service.application._working == 0
        assert service.application.budget.taken == 0


def test_others_reach_a_service_only_with_keys():
    with pytest.raises(lw.InputError, match=r"must be 127\.0\.0\.1 for a service without keys"):
        running.listen("0.0.0.0", 0, has_keys=False)
    with pytest.raises(lw.InputError, match="free on this machine"):
        running.listen("203.0.113.1", 0, has_keys=True)
    with running.listen("127.0.0.1", 0, has_keys=False) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(lw.InputError, match=f"127.0.0.1:{port}"):
            running.listen("127.0.0.1", port, has_keys=False)


def test_the_command_makes_keys_and_shows_each_once(run, tmp_path):
    file = tmp_path / "keys.json"
    status, out, _ = run("key", file, "till", "--write", "--json")
    told = json.loads(out)
    assert (status, told["name"], told["scope"]) == (0, "till", "write")
    assert told["key"].startswith("lw_")
    assert told["key"] not in file.read_text()
    assert run("key", file, "till")[0] == 2
    status, out, _ = run("key", file, "page")
    assert out.strip().startswith("lw_")
    assert run("key", file, "till", "--remove")[0] == 0
    assert run("key", file, "till", "--remove")[0] == 2
    assert [each["name"] for each in json.loads(file.read_text())["keys"]] == ["page"]
    file.write_text("[]")
    status, _, err = run("key", file, "x")
    assert status == 2
    assert "must be a file that likewise key made" in err


def test_the_command_refuses_what_cannot_be_served(run, tmp_path):
    small_model().save(tmp_path / "model")
    status, _, err = run("serve", tmp_path / "model", "--host", "0.0.0.0", "--port", "0")
    assert status == 2
    assert "likewise key FILE NAME" in err
    status, _, err = run("serve", tmp_path / "nothing")
    assert status == 2
    status, _, err = run("serve", tmp_path / "model", "--keys", tmp_path / "none.json")
    assert status == 2
    status, _, err = run("serve", tmp_path / "model", "--most-items", "0")
    assert status == 2
    assert "most_items" in err or "--most-items" in err


def test_every_limit_is_an_option_of_its_name(run, tmp_path, monkeypatch):
    given = {each.name: at for at, each in enumerate(fields(Settings), start=2)}
    opened = []

    def refuse(*_, settings, **__):
        opened.append(settings)
        raise lw.InputError("service must not be opened here, got that it is.")

    monkeypatch.setattr(opening, "open_service", refuse)
    options = [(f"--{name.replace('_', '-')}", value) for name, value in given.items()]
    assert run("serve", tmp_path)[0] == 2
    assert run("serve", tmp_path, *(each for option in options for each in option))[0] == 2
    assert opened == [Settings(), Settings(**given)]


def start(place, *options):
    """The command, and where it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "likewise", "serve", str(place), "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    line = process.stdout.readline().decode().strip()
    assert line.startswith("http://127.0.0.1:"), process.stderr.read().decode()
    return process, int(line.rsplit(":", 1)[1])


def tell(line, method, path, body, more=""):
    content = json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    line.sendall(head.encode() + content)
    data = everything(line)
    if not data:
        raise ConnectionError
    return int(data[9:12]), json.loads(data.partition(b"\r\n\r\n")[2])


def test_what_was_acknowledged_is_there_after_a_kill_and_a_stop_finishes_what_was_begun(tmp_path):
    model = lw.SimilarityModel(None)
    model.use_gallery(tmp_path / "known")
    model.save(tmp_path / "model")
    model.index.close()
    acknowledged, faults = {}, []

    def load(port, at):
        number = 0
        try:
            with socket.create_connection(("127.0.0.1", port), 60) as line:
                while True:
                    number += 1
                    key = f"{at}-{number}-{time.time_ns()}"
                    item = {"vector": [1.0, float(number)], "label": f"class {at}"}
                    body = {"items": [{**item, "metadata": {"key": key}}]}
                    more = f"Idempotency-Key: {key}\r\n"
                    status, told = tell(line, "POST", "/v1/items", body, more)
                    if status == 201:
                        acknowledged[told["ids"][0]] = key
                    elif status != 503:
                        faults.append(told)
                        return
                    status, told = tell(
                        line, "POST", "/v1/lookup", {"items": [{"vector": [1.0, 1.0]}], "k": 3}
                    )
                    if status not in (200, 503):
                        faults.append(told)
                        return
        except (ConnectionError, TimeoutError):
            return

    for number in (signal.SIGKILL, signal.SIGTERM):
        before = len(acknowledged)
        process, port = start(tmp_path / "model")
        threads = [threading.Thread(target=load, args=(port, at)) for at in range(3)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < before + 30 and any(each.is_alive() for each in threads):
            time.sleep(0.01)
        process.send_signal(number)
        log = process.stderr.read().decode()
        status = process.wait(60)
        process.stdout.close()
        process.stderr.close()
        for thread in threads:
            thread.join(60)
        assert faults == []
        assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        lines = [json.loads(line) for line in log.splitlines() if line.endswith("}")]
        assert sum(line.get("status") == 201 for line in lines) >= 29
        with lw.Gallery(tmp_path / "known") as there:
            ids = [str(id_) for id_ in there.ids.tolist()]
            keys = [facts["key"] for facts in there.metadata(there.ids)]
        held = dict(zip(ids, keys, strict=True))
        assert len(set(keys)) == len(keys)
        assert {id_: held.get(id_) for id_ in acknowledged} == acknowledged
        # At most what each client had on its way can be there without its answer.
        assert len(np.setdiff1d(keys, list(acknowledged.values()))) <= 3 * 3
