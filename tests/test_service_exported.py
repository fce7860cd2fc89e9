"""A service over an exported model: the answers of the model, without torch."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

import likewise as lw

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="the test client of Starlette needs httpx2")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from starlette.testclient import TestClient

from likewise.errors import InputError
from likewise.service import open_service
from likewise.service.openapi import ENDPOINTS
from likewise.service.refusals import CODES

HERE = "http://127.0.0.1:8000"


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(9).normal(size=(12, 8))
    codes = rng.integers(12, size=count)
    items = middles[codes] + 0.6 * rng.normal(size=(count, 8))
    return items.astype("float32"), [f"class {code:02d}" for code in codes]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved model, and the same exported."""
    place = tmp_path_factory.mktemp("served")
    model = lw.SimilarityModel(None)
    model.add(drawn(150, 0), metadata=[{"row": row, "path": f"/a/{row}"} for row in range(150)])
    aside = drawn(200, 1)
    model.calibrate(aside, goal=lw.at_most_false_accepts(0.4, confidence=0.6))
    model.calibrate(aside, rule="majority", k=5)
    model.calibrate(aside, rule="pairs")
    model.save(place / "model")
    lw.export(model, place / "out", aside)
    return place / "model", place / "out"


@pytest.fixture(scope="module")
def clients(folders):
    """A client of the model, and one of what it was exported to."""
    clients = [
        TestClient(open_service(folder), base_url=HERE, raise_server_exceptions=False)
        for folder in folders
    ]
    with clients[0], clients[1]:
        yield clients


def asked(points, **more):
    return {"items": [{"vector": [float(x) for x in point]} for point in points], **more}


def same(theirs, ours):
    """Whether two answers are equal up to rounding."""
    if isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(same(theirs[key], ours[key]) for key in ours)
    if isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(same, theirs, ours))
    return theirs == (pytest.approx(ours, abs=1e-4) if isinstance(ours, float) else ours)


def test_answers_are_those_of_the_model(clients):
    points, _ = drawn(40, 2)
    sides = asked(points)["items"]
    pairs = [{"a": a, "b": b} for a, b in zip(sides[:20], sides[20:], strict=True)]
    for path, body in (
        ("/v1/match", asked(points)),
        ("/v1/match", asked(points, point="majority", k=0)),
        ("/v1/lookup", asked(points, k=3)),
        ("/v1/embed", asked(points)),
        ("/v1/verify", {"pairs": pairs, "prior": 0.2}),
    ):
        ours, theirs = (client.post(path, json=body) for client in clients)
        assert ours.status_code == theirs.status_code == 200
        assert same(theirs.json(), ours.json()), path
    told = clients[1].post("/v1/match", json=asked(points)).json()
    assert None in {each["label"] for each in told["answers"]}
    assert told["point"]["guarantee"]["rate"] == 0.4
    assert told["answers"][0]["neighbors"][0]["metadata"]["path"].isdecimal()


def test_known_items_are_listed_as_by_the_model(clients):
    for path in (
        "/v1/items",
        "/v1/items?label=class%2003&limit=2",
        "/v1/items?before=40&limit=3",
        "/v1/items/17",
    ):
        ours, theirs = (client.get(path).json() for client in clients)
        assert theirs == ours
    assert clients[1].get("/v1/items/none").json()["code"] == "not_found"
    ours, theirs = (client.get("/v1/model").json() for client in clients)
    assert (ours["exported"], theirs["exported"]) == (False, True)
    assert theirs["indexed"] == ours["indexed"]
    assert theirs["classes"] == ours["classes"]
    assert same(theirs["points"], ours["points"])


def test_what_an_exported_model_cannot_do_is_one_sentence(clients):
    points, _ = drawn(1, 2)
    calls = [
        ("POST", "/v1/match", asked(points, where={"row": 3})),
        ("POST", "/v1/match", asked(points, candidates=0.9)),
        ("POST", "/v1/lookup", asked(points, where={"row": 3})),
        ("POST", "/v1/items", asked(points)),
        ("DELETE", "/v1/items/3", None),
        ("PATCH", "/v1/items/3", {"label": "a"}),
        ("GET", "/v1/items/3/picture", None),
        ("GET", "/v1/unknowns", None),
        ("POST", "/v1/unknowns/3/enroll", {"label": "a"}),
        ("GET", "/v1/drift", None),
    ]
    for method, path, body in calls:
        answer = clients[1].request(method, path, json=body)
        told = answer.json()
        assert (answer.status_code, told["code"]) == (CODES["not_exported"][0], "not_exported")
        assert told["sentence"].startswith("model must be served from its own folder for ")
        assert told["request_id"] == answer.headers["x-request-id"]


def test_the_document_has_what_there_is(clients):
    ours, theirs = (client.get("/openapi.json").json() for client in clients)
    offered = {(e.method.lower(), e.path) for e in ENDPOINTS if e.exported}
    assert {(m, path) for path, told in theirs["paths"].items() for m in told} == offered
    assert len(offered) < len(ENDPOINTS)
    fields = [
        set(told["components"]["schemas"]["MatchRequest"]["properties"]) for told in (ours, theirs)
    ]
    assert fields[0] - fields[1] == {"where", "candidates"}


def test_wrong_requests_are_refused_as_by_the_model(clients):
    points, _ = drawn(2, 2)
    for path, body in (
        ("/v1/match", asked(points, point="none")),
        ("/v1/match", asked(points, point="pairs")),
        ("/v1/match", asked(points, k=1000)),
        ("/v1/match", {"items": [{"vector": [1.0]}]}),
        ("/v1/match", {"items": [{"text": "a"}]}),
        ("/v1/verify", {"pairs": [{"a": {"vector": [0.0] * 8}, "b": {"vector": [1.0]}}]}),
        ("/v1/verify", {"pairs": [], "point": "pairs"}),
    ):
        ours, theirs = (client.post(path, json=body) for client in clients)
        assert 400 <= theirs.status_code == ours.status_code < 500
        assert theirs.json()["sentence"] == ours.json()["sentence"]


def test_what_is_kept_or_written_is_refused_before(folders, tmp_path):
    for name in ("gallery", "keep"):
        with pytest.raises(InputError, match=f"{name} must be left out for an exported model"):
            open_service(folders[1], **{name: tmp_path / "there"})
    assert list(tmp_path.iterdir()) == []


BLOCKED = """
import sys

NOT_NEEDED = {"torch", "scipy", "sklearn", "kornia", "matplotlib", "jaxtyping", "accelerate"}
NOT_NEEDED |= {"safetensors", "tomli_w", "pooch", "jinja2", "markupsafe"}

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in NOT_NEEDED:
            raise ImportError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
from likewise.cli import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="stops the service by a signal")
def test_the_command_serves_where_torch_cannot_be_imported(folders):
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    pytest.importorskip("httptools", reason="the extra serve is not installed")
    command = [sys.executable, "-c", BLOCKED, "serve"]
    with subprocess.Popen(
        [*command, str(folders[1]), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    ) as served:
        url = served.stdout.readline().strip()
        assert url.startswith("http://"), served.stderr.read()
        points, _ = drawn(3, 0)
        request = urllib.request.Request(
            f"{url}/v1/match",
            json.dumps(asked(points)).encode(),
            {"Content-Type": "application/json"},
        )
        for attempt in range(100):
            try:
                with urllib.request.urlopen(request) as answer:
                    labels = [each["label"] for each in json.load(answer)["answers"]]
                break
            except OSError:
                if attempt == 99:
                    raise
                time.sleep(0.05)
        served.send_signal(signal.SIGTERM)
        assert served.wait(20) == 0, served.stderr.read()
    assert labels == drawn(3, 0)[1]
    ran = subprocess.run([*command, str(folders[0])], capture_output=True, text=True)
    assert ran.returncode != 0, "a model that was not exported needs torch"
