"""The service: its answers are those of the library, and what it acknowledges is on disk."""

import base64
import io
import json
import shutil
import threading
import time
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import likewise as lw
from likewise.calibration import at_most_false_accepts
from likewise.matching import OF_CENTERS

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="the test client of Starlette needs httpx2")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from starlette.testclient import TestClient

from likewise.service import Keys, Settings, make_key, open_service, remove_key
from likewise.service.application import Application
from likewise.service.openapi import ENDPOINTS, Served, document
from likewise.service.refusals import CODES
from likewise.service.routes import Routes

HERE = "http://127.0.0.1:8000"
CLASSES = 6


def vectors(per_class, seed, classes=CLASSES, spread=0.05):
    """Points near the axes, and the names of their classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    points = np.eye(classes, 8)[labels] + spread * rng.normal(size=(len(labels), 8))
    return points.astype(np.float32), [f"class {label}" for label in labels]


def vector_model():
    """Five items of each of five classes; the sixth class is unknown."""
    model = lw.SimilarityModel(None)
    points, names = vectors(5, 0)
    known = [name != "class 5" for name in names]
    model.index.add(
        points[known],
        labels=[name for name in names if name != "class 5"],
        metadata=[{"shop": "north" if at % 2 else "south"} for at in range(sum(known))],
    )
    aside = vectors(60, 1, spread=0.3)
    model.calibrate(aside)
    model.calibrate(aside, rule="pairs", goal=at_most_false_accepts(0.1, 0.9))
    model.calibrate(
        aside, point="sure", rule="nearest", goal=at_most_false_accepts(0.2, 0.9), leave_out="items"
    )
    return model


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    vector_model().save(folder)
    return folder


@pytest.fixture
def place(saved, tmp_path):
    """A copy of the model, to be changed."""
    lw.load(saved).save(tmp_path / "model")
    return tmp_path / "model"


def client_of(application, **options):
    return TestClient(application, base_url=HERE, raise_server_exceptions=False, **options)


@pytest.fixture
def client(place, tmp_path):
    with client_of(open_service(place, gallery=tmp_path / "known", keep=tmp_path / "keep")) as made:
        yield made


def served(model, **options):
    """A client of a model that is not saved."""
    settings = options.pop("settings", Settings())
    return client_of(Application(Routes(model, settings, **options)))


def envelope(response):
    """Status and code of a refusal, which has the form of all."""
    told = response.json()
    assert set(told) == {"code", "sentence", "request_id"}, response.text
    assert told["request_id"] == response.headers["x-request-id"]
    assert told["sentence"].endswith(".")
    assert "must" in told["sentence"]
    assert CODES[told["code"]][0] == response.status_code
    return response.status_code, told["code"]


def refused(response, status, code):
    assert envelope(response) == (status, code), response.text
    return response.json()["sentence"]


def asked(points, **more):
    return {"items": [{"vector": [float(x) for x in point]} for point in points], **more}


# ---------------------------------------------------------------------------------------------
# Answers


def test_a_match_is_that_of_the_library_whatever_the_point(client, place):
    model = lw.load(place)
    points, _ = vectors(4, 7, spread=0.25)
    for point in ("nearest", "sure"):
        told = client.post("/v1/match", json=asked(points, point=point)).json()
        decided = model.match(points, point=point)
        names = [None if code < 0 else model.class_names[code] for code in decided.labels.tolist()]
        assert [each["label"] for each in told["answers"]] == names
        assert None in names
        assert len(set(names)) > 3
        got = [each["distance"] for each in told["answers"]]
        assert got == decided.distances.tolist()
        assert [each["probability"] for each in told["answers"]] == decided.probabilities.tolist()
        assert {each["threshold"] for each in told["answers"]} == {decided.threshold}
        near = model.lookup(points, k=5)
        ids = [[each["id"] for each in answer["neighbors"]] for answer in told["answers"]]
        assert ids == [[str(id_) for id_ in row] for row in near.ids.tolist()]
        labels = [[each["label"] for each in answer["neighbors"]] for answer in told["answers"]]
        assert labels == near.names


@pytest.mark.parametrize("point", ["nearest", "center"])
def test_candidates_are_those_of_the_library_with_what_they_rest_on(point):
    model = vector_model()
    model.calibrate(vectors(60, 1, spread=0.3), rule=point)
    points, _ = vectors(4, 7, spread=0.3)
    with served(model) as client:
        told = client.post("/v1/match", json=asked(points, point=point, candidates=0.9)).json()
        expected = model.match(points, point=point, candidates=0.9).candidates
        assert [each["candidates"] for each in told["answers"]] == expected.names
        assert len(set(map(len, expected.names))) > 1
        assert told["candidates_rest_on"] == expected.rests_on
        plain = client.post("/v1/match", json=asked(points)).json()
        assert plain["candidates_rest_on"] is None
        assert {each["candidates"] for each in plain["answers"]} == {None}
        for more, status, code, words in (
            ({"candidates": 0.9999}, 409, "too_few_items", "takes 9,999: 9,699 more would do"),
            ({"candidates": 0.9, "where": {"shop": "north"}}, 422, "invalid", "out with where"),
            ({"candidates": 1.0}, 422, "invalid", "candidates"),
        ):
            response = client.post("/v1/match", json=asked(points, **more))
            assert words in refused(response, status, code)


@pytest.mark.parametrize("with_cohort", [False, True])
def test_a_point_of_more_neighbors_than_known_items_is_refused_by_their_number(with_cohort):
    model = vector_model()
    points, _ = vectors(4, 7)
    if with_cohort:
        model.use_cohort(points, nearest=5)
    model.calibrate(vectors(60, 1, spread=0.3), rule="majority", k=5)
    model.index.remove(model.index.ids[:-4])
    with served(model) as client:
        response = client.post("/v1/match", json=asked(points, point="majority"))
        words = refused(response, 409, "too_few_items")
        assert words == "gallery must hold at least 5 items for this operating point, got 4."


@pytest.mark.parametrize("rule", ["majority", "weighted", "center", "relative"])
def test_every_rule_decides_as_in_the_library(rule):
    model = vector_model()
    model.calibrate(vectors(60, 1, spread=0.3), rule=rule, k=1 if rule in OF_CENTERS else 3)
    points, _ = vectors(4, 7, spread=0.3)
    with served(model) as client:
        for k in (0, 1, 4):
            told = client.post("/v1/match", json=asked(points, point=rule, k=k)).json()
            decided = model.match(points, point=rule)
            assert [each["distance"] for each in told["answers"]] == decided.distances.tolist()
            assert {len(each["neighbors"]) for each in told["answers"]} == {k}


def test_thresholds_by_class_and_a_cohort_decide_as_in_the_library():
    model = vector_model()
    model.use_cohort(vectors(30, 11, spread=0.5)[0], nearest=20)
    model.calibrate(vectors(60, 1, spread=0.4), per_class=True, fewest=5)
    assert model.class_thresholds["nearest"].classes
    points, _ = vectors(6, 7, spread=0.3)
    with served(model) as client:
        told = client.post("/v1/match", json=asked(points)).json()["answers"]
    decided = model.match(points)
    assert [each["distance"] for each in told] == decided.distances.tolist()
    assert [each["threshold"] for each in told] == decided.limits.tolist()
    assert len({each["threshold"] for each in told}) > 1


def test_a_point_tells_what_it_guarantees(client, place):
    made = lw.load(place).calibrations["sure"]
    told = client.post("/v1/match", json=asked(vectors(1, 3)[0], point="sure")).json()["point"]
    assert told["guarantee"]["rate"] == 0.2
    assert told["guarantee"]["confidence"] == 0.9
    assert told["guarantee"]["sentence"] == made.guaranteed
    assert told["guarantee"]["outgrown"] is None
    assert told["threshold"] == made.threshold
    assert told["unknowns_accepted"]["value"] == made.false_positive_rate.value
    assert told["knowns_missed"]["value"] == made.false_negative_rate.value
    assert [each["sentence"] for each in told["unknowns"]] == list(map(str, made.unknowns))
    assert told["unknowns"]
    assert 0 < told["knowns_missed"]["value"] < 1
    assert told["knowns_missed"]["low"] <= told["knowns_missed"]["value"]
    points, _ = vectors(1, 5)
    more = {"items": [{"vector": points[0].tolist(), "label": "more"}]}
    assert client.post("/v1/items", json=more).status_code == 201
    grown = client.post("/v1/match", json=asked(points, point="sure")).json()["point"]
    assert "calibrate again" in grown["guarantee"]["outgrown"].lower()
    assert client.get("/v1/drift", params={"point": "sure"}).json()["outgrown"]


def test_lookup_verify_and_embed_are_those_of_the_library(client, place):
    model = lw.load(place)
    points, _ = vectors(2, 9, spread=0.2)
    told = client.post("/v1/lookup", json=asked(points, k=3)).json()["answers"]
    near = model.lookup(points, k=3)
    assert [[n["distance"] for n in each["neighbors"]] for each in told] == near.distances.tolist()
    pairs = [
        {"a": {"vector": a.tolist()}, "b": {"vector": b.tolist()}} for a, b in pairwise(points)
    ]
    told = client.post("/v1/verify", json={"pairs": pairs, "prior": 0.1}).json()
    decided = model.verify(points[:-1], points[1:], prior=0.1)
    assert [each["same"] for each in told["answers"]] == decided.same.tolist()
    assert {True, False} == set(decided.same.tolist())
    assert [each["probability"] for each in told["answers"]] == decided.probabilities.tolist()
    assert told["point"]["guarantee"]["rate"] == 0.1
    rate = model.calibrations["pairs"].false_accept_rate.value
    assert told["point"]["different_accepted"]["value"] == rate
    told = client.post("/v1/embed", json=asked(points)).json()
    assert told == {"embeddings": points.tolist(), "encoder": None}


def test_a_filter_chooses_who_may_be_found(client, place):
    points, _ = vectors(1, 3)
    where = {"shop": "north"}
    told = client.post("/v1/lookup", json=asked(points, k=4, where=where)).json()["answers"]
    near = lw.load(place).lookup(points, k=4, where=where)
    assert [[n["id"] for n in each["neighbors"]] for each in told] == near.ids.astype(str).tolist()
    assert {n["metadata"]["shop"] for each in told for n in each["neighbors"]} == {"north"}
    mixed = client.post("/v1/match", json=asked(points, where=where)).json()["answers"]
    assert mixed != client.post("/v1/match", json=asked(points)).json()["answers"]
    refused(client.post("/v1/lookup", json=asked(points, where={"shp": "x"})), 422, "invalid")
    refused(
        client.post("/v1/lookup", json=asked(points, where={"shop": {"$gt": 1}})), 422, "invalid"
    )


def image_model():
    digits = lw.data.load("digits", split="train")
    torch.manual_seed(0)
    model = lw.SimilarityModel(
        lw.encoders.ConvEncoder(digits.item_shape), preprocess=lw.data.Preprocess.fit(digits)
    )
    few = lw.data.sample_items(digits, per_class=4)
    model.add(few, keep_pictures=True)
    model.calibrate(digits)
    model.calibrate(digits, rule="pairs", per_item=1)
    return model


@pytest.fixture(scope="module")
def images():
    return image_model()


def files_of(folder):
    """Image files of several kinds, among them a JPEG that is decoded at a smaller scale."""
    rng = np.random.default_rng(0)
    made = []
    for name, size in (("a.png", 8), ("b.jpg", 300), ("c.webp", 40), ("d.gif", 16), ("e.bmp", 9)):
        coarse = Image.fromarray(rng.integers(0, 255, (4, 4), dtype=np.uint8))
        coarse.resize((size, size)).save(folder / name)
        made.append(folder / name)
    return made


def test_images_are_read_as_their_files_are(images, tmp_path):
    paths = files_of(tmp_path)
    decided = images.match(paths)
    with served(images) as client:
        uploads = [("image", (path.name, path.read_bytes())) for path in paths]
        form = client.post("/v1/match", files=uploads, data={"k": "2"}).json()["answers"]
        assert [each["distance"] for each in form] == decided.distances.tolist()
        plain = [{"image": base64.b64encode(path.read_bytes()).decode()} for path in paths]
        told = client.post("/v1/match", json={"items": plain, "k": 2}).json()["answers"]
        assert told == form
        a, b = paths[:2]
        told = client.post("/v1/verify", files={"a": a.read_bytes(), "b": b.read_bytes()}).json()
        alone = images.verify([a], [b]).distances.item()
        assert told["answers"][0]["distance"] == pytest.approx(alone, abs=1e-6)
        embedded = client.post("/v1/embed", json={"items": plain}).json()
        assert embedded["encoder"] == images.fingerprint
        again = [{"embedding": each} for each in embedded["embeddings"]]
        told = client.post("/v1/match", json={"items": again, "k": 2}).json()["answers"]
        assert [each["distance"] for each in told] == decided.distances.tolist()


def test_one_picture_answers_as_in_a_batch_of_others(images, tmp_path):
    path = files_of(tmp_path)[0]
    with served(images) as client:
        got = [None] * 12

        def ask(at):
            got[at] = client.post("/v1/match", files={"image": path.read_bytes()}).json()

        threads = [threading.Thread(target=ask, args=(at,)) for at in range(len(got))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {each["answers"][0]["label"] for each in got} == {
        None if code < 0 else images.class_names[code]
        for code in images.match([path]).labels.tolist()
    }
    distances = [each["answers"][0]["distance"] for each in got]
    np.testing.assert_allclose(distances, images.match([path]).distances.item(), atol=1e-5)


class Lengths(nn.Module):
    """An encoder of texts."""

    takes_texts = True

    def forward(self, texts):
        return torch.tensor([[float(len(text)), float(text.count("e")), 1.0] for text in texts])


def test_texts_are_matched_and_kept():
    model = lw.SimilarityModel(Lengths())
    texts = ["eee", "aaaa", "ee", "bbbbb", "e", "cccccc"]
    model.add((texts, ["e", "a", "e", "a", "e", "a"]))
    model.calibrate((["eeee", "aaaaaaa", "eeeee", "bbbb"], ["e", "a", "e", "a"]))
    with served(model, writes=True) as client:
        assert client.get("/v1/model").json()["takes"] == "text"
        told = client.post("/v1/match", json={"items": [{"text": "eee"}], "k": 1}).json()
        assert told["answers"][0]["label"] == "e"
        form = client.post("/v1/match", data={"text": "eeeeee", "k": "1"}, files={"x": b""})
        refused(form, 422, "invalid")
        added = client.post("/v1/items", json={"items": [{"text": "zz", "label": "z"}]}).json()
        item = client.get(f"/v1/items/{added['ids'][0]}").json()
        assert (item["label"], item["metadata"], item["picture"]) == ("z", {"text": "zz"}, False)
        refused(
            client.post("/v1/embed", json={"items": [{"text": "x" * 10_001}]}), 413, "too_large"
        )
        refused(client.post("/v1/embed", json={"items": [{"vector": [1.0]}]}), 422, "invalid")


def test_the_card_tells_what_is_served(client, place):
    model = lw.load(place)
    told = client.get("/v1/model").json()
    assert told["takes"] == "vector"
    assert told["item_shape"] == [8]
    assert told["indexed"] == 25
    assert told["classes"] == {f"class {at}": 5 for at in range(5)}
    assert {each["name"] for each in told["points"]} == set(model.calibrations)
    assert told["writes"]
    assert told["keeps_unknowns"]
    assert told["limits"]["most_items"] == Settings().most_items
    assert len(told["version"]) == 12


def test_drift_is_noticed_where_distances_change():
    model = vector_model()
    with served(model) as client:
        first = client.get("/v1/drift").json()
        assert (first["seen"], first["drifted"]) == (0, None)
        points, _ = vectors(40, 21, classes=5, spread=0.3)
        client.post("/v1/match", json=asked(points))
        far, _ = vectors(20, 22, classes=5, spread=3.0)
        hours = client.get("/v1/drift").json()["hours"]
        assert sum(hour["matched"] for hour in hours) == len(points)
        for _ in range(2):
            client.post("/v1/match", json=asked(far))
        after = client.get("/v1/drift", params={"false_alarm": 0.001}).json()
        assert after["drifted"]
        # The model has seen no unknowns: another share of them may be all that has changed.
        assert after["calibrate_again"] == []
        assert "run likewise drift" in after["advice"]
        assert after["seen"] == 400
        assert after["p_value"] < 0.001
        assert sum(hour["unknown"] for hour in after["hours"]) > 20
        model.index.add(points[:1], labels=["class 0"])
        grown = client.get("/v1/drift", params={"point": "sure"}).json()
        assert grown["calibrate_again"] == [grown["outgrown"]]
        assert grown["outgrown"] in grown["advice"]


def test_distances_and_hours_last_over_a_restart_until_it_is_calibrated_again(place, tmp_path):
    def counted(client):
        told = client.get("/v1/drift").json()
        return told["seen"], sum(hour["matched"] for hour in told["hours"])

    points, _ = vectors(4, 21)
    with client_of(open_service(place, keep=tmp_path / "keep")) as client:
        client.post("/v1/match", json=asked(points))
        before = client.get("/v1/drift").json()
        assert counted(client) == (24, 24)
    with client_of(open_service(place, keep=tmp_path / "keep")) as client:
        assert client.get("/v1/drift").json() == before
        client.post("/v1/match", json=asked(points[:1]))
        assert counted(client) == (25, 25)
    model = lw.load(place)
    model.calibrate(vectors(60, 5, spread=0.4))
    model.save(place)
    with client_of(open_service(place, keep=tmp_path / "keep")) as client:
        assert counted(client) == (0, 25)
    (tmp_path / "keep" / "seen.json").write_text("[1")
    with client_of(open_service(place, keep=tmp_path / "keep")) as client:
        assert counted(client) == (0, 0)


@pytest.mark.parametrize("has_gallery", [False, True])
def test_a_model_that_was_calibrated_again_is_followed_whole(place, tmp_path, has_gallery):
    application = open_service(place, gallery=tmp_path / "known" if has_gallery else None)
    points, _ = vectors(3, 31, spread=0.3)
    with client_of(application) as client:

        def told():
            answer = client.post("/v1/match", json=asked(points)).json()
            assert {each["threshold"] for each in answer["answers"]} == {
                answer["point"]["threshold"]
            }
            return answer

        before, version = told(), client.get("/v1/model").json()["version"]
        model = lw.load(place, read_only=True)
        model.calibrate(vectors(60, 5, spread=0.6))
        model.calibrate(vectors(60, 5, spread=0.6), point="new", rule="nearest")
        model.save(place)
        end = time.monotonic() + 60
        while client.get("/v1/model").json()["version"] == version and time.monotonic() < end:
            assert told()["point"]["threshold"] in (
                before["point"]["threshold"],
                model.calibrations["nearest"].threshold,
            )
        card = client.get("/v1/model").json()
        assert {point["name"] for point in card["points"]} == {"nearest", "new", "pairs", "sure"}
        decided = model.match(points)
        assert told()["point"]["threshold"] == decided.threshold != before["point"]["threshold"]
        assert [each["label"] or "unknown" for each in told()["answers"]] == decided.names
        assert client.get("/v1/drift").json()["seen"] >= len(points)
        if has_gallery:
            added = {"items": [{"vector": [1.0] * 8, "label": "more"}]}
            assert client.post("/v1/items", json=added).status_code == 201
            assert client.get("/v1/model").json()["indexed"] == 26
    if has_gallery:  # which the service let go
        lw.load(place, gallery=tmp_path / "known").add(vectors(1, 0))


def test_a_model_with_another_gallery_is_not_followed(tmp_path, caplog):
    for name in ("one", "other"):
        model = lw.SimilarityModel(None)
        model.use_gallery(tmp_path / name)
        model.add(vectors(5, 0))
        model.calibrate(vectors(60, 1, spread=0.3))
        if name == "one":
            model.save(tmp_path / "model")
            model.index.close()
            application = open_service(tmp_path / "model")
    with client_of(application) as client:
        before = client.get("/v1/model").json()
        model.save(tmp_path / "model")
        application.routes.follow()
        assert client.get("/v1/model").json() == before
        assert "start again" in caplog.text
        added = {"items": [{"vector": [1.0] * 8, "label": "more"}]}
        assert client.post("/v1/items", json=added).json()["indexed"] == 31


def test_a_model_with_another_encoder_is_not_followed(tmp_path, caplog):
    def save(seed, spread):
        torch.manual_seed(seed)
        model = lw.SimilarityModel(lw.encoders.MLPEncoder((8,)))
        model.add(vectors(5, 0))
        model.calibrate(vectors(60, 1, spread=spread))
        model.save(tmp_path / "model")

    save(0, 0.3)
    application = open_service(tmp_path / "model")
    with client_of(application) as client:
        before = client.get("/v1/model").json()
        model = lw.load(tmp_path / "model")
        model.calibrate(vectors(60, 2, spread=0.5))
        model.save(tmp_path / "model")
        application.routes.follow()
        after = client.get("/v1/model").json()
        assert after["version"] != before["version"]
        assert after["encoder"] == before["encoder"]
        shutil.rmtree(tmp_path / "model")
        save(1, 0.3)
        application.routes.follow()
        assert client.get("/v1/model").json() == after
        assert client.post("/v1/match", json=asked([[1.0] * 8])).status_code == 200
        assert "start again" in caplog.text


# ---------------------------------------------------------------------------------------------
# Two towers


def axes(width):
    """An encoder that keeps the first four numbers of an item."""
    layer = nn.Linear(width, 4, bias=False)
    layer.weight.data = torch.eye(4, width)
    return nn.Sequential(layer)


def near_axes(per_class, seed, width, spread=0.05):
    """Points of five classes; encoders see nothing of the last one."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), per_class)
    points = np.eye(5, width)[labels] + spread * rng.normal(size=(len(labels), width))
    return points.astype(np.float32), [f"class {label}" for label in labels]


def tower_model(gallery=None):
    """Queries of eight numbers over known items of six."""
    before = {width: lw.data.Preprocess((width,), (0.0,), (1.0,)) for width in (6, 8)}
    model = lw.SimilarityModel(
        axes(6), preprocess=before[6], query_encoder=axes(8), query_preprocess=before[8]
    )
    if gallery is not None:
        model.use_gallery(gallery)
    known, names = near_axes(3, 0, 6)
    model.add((known[:12], names[:12]))
    model.calibrate(near_axes(30, 1, 8, spread=0.2))
    a, b = near_axes(8, 2, 8, spread=0.2), near_axes(8, 3, 6, spread=0.2)
    rows = torch.cartesian_prod(torch.arange(40), torch.arange(40))
    same = rows[:, 0] // 8 == rows[:, 1] // 8
    pairs = lw.data.CrossPairs(lw.data.load(a), lw.data.load(b), rows, same)
    model.calibrate(pairs, rule="pairs")
    return model


def test_two_towers_encode_what_is_asked_about_and_what_is_known_each_by_its_own(tmp_path):
    model = tower_model()
    model.save(tmp_path / "model")
    queries, _ = near_axes(3, 7, 8, spread=0.3)
    others, _ = near_axes(3, 8, 6, spread=0.3)
    place = {"gallery": tmp_path / "known", "keep": tmp_path / "keep"}
    with client_of(open_service(tmp_path / "model", **place)) as client:
        told = client.post("/v1/match", json=asked(queries)).json()["answers"]
        decided = model.match(queries)
        assert [each["distance"] for each in told] == decided.distances.tolist()
        assert [each["label"] or "unknown" for each in told] == decided.names
        assert len(set(decided.names)) == 5
        told = client.post("/v1/lookup", json=asked(queries, k=2)).json()["answers"]
        near = model.lookup(queries, k=2).distances.tolist()
        assert [[n["distance"] for n in each["neighbors"]] for each in told] == near

        pairs = [
            {"a": {"vector": a.tolist()}, "b": {"vector": b.tolist()}}
            for a, b in zip(queries, np.roll(others, 1, axis=0), strict=True)
        ]
        told = client.post("/v1/verify", json={"pairs": pairs}).json()["answers"]
        verdicts = model.verify(queries, np.roll(others, 1, axis=0))
        assert [each["distance"] for each in told] == verdicts.distances.tolist()
        assert {each["same"] for each in told} == {True, False}

        made = client.post("/v1/embed", json=asked(others)).json()
        assert made == {"embeddings": model.embed(others).tolist(), "encoder": model.fingerprint}
        made = client.post("/v1/embed", json=asked(queries, queries=True)).json()
        assert made["embeddings"] == model.embed(queries, queries=True).tolist()
        assert made["encoder"] == model.query_fingerprint != model.fingerprint
        again = {"items": [{"embedding": each} for each in made["embeddings"]]}
        told = client.post("/v1/match", json=again).json()["answers"]
        assert [each["distance"] for each in told] == decided.distances.tolist()

        for path, body in (
            ("match", asked(others)),
            ("lookup", asked(others)),
            ("embed", asked(queries)),
            ("embed", asked(others, queries=True)),
            ("verify", {"pairs": [{"a": each["b"], "b": each["a"]} for each in pairs]}),
            ("items", asked(queries)),
        ):
            words = refused(client.post(f"/v1/{path}", json=body), 422, "invalid")
            assert "must hold 8 numbers" in words or "must hold 6 numbers" in words

        new = {"items": [{"vector": [0.0, 0, 0, -1, 0, 0], "label": "new"}]}
        assert client.post("/v1/items", json=new).status_code == 201
        told = client.post("/v1/lookup", json=asked([[0.0] * 3 + [-2.0] + [0] * 4], k=1)).json()
        (found,) = told["answers"][0]["neighbors"]
        assert (found["label"], found["distance"]) == ("new", pytest.approx(0, abs=1e-6))


def test_two_towers_that_take_the_same_are_not_mixed():
    model = lw.SimilarityModel(axes(6), query_encoder=axes(6))
    model.query_encoder[0].weight.data = model.encoder[0].weight.data.roll(1, dims=1)
    known = lw.data.load(near_axes(3, 0, 6))
    queries = lw.data.load(near_axes(3, 1, 6))
    rows = torch.cartesian_prod(torch.arange(15), torch.arange(15))
    same = rows[:, 0] // 3 == rows[:, 1] // 3
    model.calibrate(lw.data.CrossPairs(queries, known, rows, same), rule="pairs")
    a, b = near_axes(2, 4, 6, spread=0.3)[0], near_axes(2, 5, 6, spread=0.3)[0]
    pairs = [
        {"a": {"vector": one.tolist()}, "b": {"vector": two.tolist()}}
        for one, two in zip(a, b, strict=True)
    ]
    with served(model) as client:
        told = client.post("/v1/verify", json={"pairs": pairs}).json()["answers"]
    expected = model.verify(a, b).distances
    assert [each["distance"] for each in told] == expected.tolist()
    assert not torch.equal(expected, model.verify(b, a).distances)


def test_a_card_tells_both_sides_of_two_towers_and_a_new_calibration_is_followed(tmp_path):
    model = tower_model()
    model.save(tmp_path / "model")
    application = open_service(tmp_path / "model")
    with client_of(application) as client:
        card = client.get("/v1/model").json()
        assert (card["takes"], card["item_shape"]) == ("vector", [8])
        assert (card["known_takes"], card["known_item_shape"]) == ("vector", [6])
        assert card["encoder"]["fingerprint"] == model.fingerprint
        assert card["query_encoder"]["fingerprint"] == model.query_fingerprint
        assert card["query_encoder"]["dimension"] == 4
        model.calibrate(near_axes(30, 9, 8, spread=0.4))
        model.save(tmp_path / "model")
        application.routes.follow()
        queries, _ = near_axes(3, 7, 8, spread=0.3)
        told = client.post("/v1/match", json=asked(queries)).json()
        decided = model.match(queries)
        assert told["point"]["threshold"] == decided.threshold
        assert [each["distance"] for each in told["answers"]] == decided.distances.tolist()
        before = client.get("/v1/model").json()
        assert before["version"] != card["version"]
        model.query_encoder[0].weight.data += 1
        model.save(tmp_path / "model")
        application.routes.follow()
        assert client.get("/v1/model").json() == before


def test_an_unknown_of_two_towers_is_kept_and_cannot_become_known(tmp_path):
    model = tower_model(tmp_path / "known")
    far = asked([[-1.0] * 8])
    with served(model, writes=True, keep=tmp_path / "keep") as client:
        told = client.post("/v1/match", json=far).json()["answers"][0]
        assert told["label"] is None
        path = f"/v1/unknowns/{told['unknown_id']}"
        enrolled = client.post(f"{path}/enroll", json={"label": "far"})
        assert "two towers" in refused(enrolled, 409, "two_towers")
        assert client.delete(path).json() == {"removed": 1, "left": 0}
    with lw.Gallery(tmp_path / "keep" / "unknowns", read_only=True) as kept:
        assert kept.encoder == model.query_fingerprint


class Colors(nn.Module):
    """The mean color of an image."""

    def forward(self, images):
        return images.mean(dim=(2, 3))


class ColorWords(nn.Module):
    """The colors that a text names."""

    takes_texts = True

    def forward(self, texts):
        names = ("red", "green", "blue")
        return torch.tensor([[float(name in text) + 0.01 for name in names] for text in texts])


def picture_of(color):
    content = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(content, "PNG")
    return content.getvalue()


def test_a_text_finds_pictures_and_forms_hold_a_text_beside_a_picture(tmp_path):
    model = lw.SimilarityModel(
        Colors(),
        preprocess=lw.data.Preprocess((3, 8, 8), (0.0,) * 3, (1.0,) * 3),
        query_encoder=ColorWords(),
    )
    model.use_gallery(tmp_path / "known")
    texts = lw.data.TextDataset(["red", "a red one", "blue", "a blue one"], [0, 0, 1, 1])
    images = lw.data.ArrayDataset(torch.eye(3)[[0, 2], :, None, None].expand(2, 3, 8, 8), [0, 1])
    rows = torch.cartesian_prod(torch.arange(4), torch.arange(2))
    same = rows[:, 0] // 2 == rows[:, 1]
    model.calibrate(lw.data.CrossPairs(texts, images, rows, same), rule="pairs")
    with served(model, writes=True) as client:
        for name in ("red", "green", "blue"):
            sent = {"image": picture_of(name if name != "green" else "lime")}
            made = client.post("/v1/items", files=sent, data={"label": name, "id": f"the {name}"})
            assert (made.status_code, made.json()["ids"]) == (201, [f"the {name}"]), made.text
        two = [("image", picture_of("red")), ("image", picture_of("blue"))]
        answer = client.post("/v1/items", files=two, data={"label": "x", "id": "one"})
        assert "one item for its id, got 2" in refused(answer, 422, "invalid")
        told = client.post("/v1/lookup", files=[("text", (None, "a red one")), ("k", (None, "1"))])
        (near,) = told.json()["answers"][0]["neighbors"]
        assert near["label"] == "red"
        assert client.get(f"/v1/items/{near['id']}/picture").status_code == 200

        def verdict(text, color):
            sides = [("a", (None, text)), ("b", ("b.png", picture_of(color)))]
            return client.post("/v1/verify", files=sides).json()["answers"][0]["same"]

        assert (verdict("red", "red"), verdict("red", "blue")) == (True, False)
        for form, status in (({"queries": "true"}, 200), ({}, 422)):
            sent = [("text", (None, "red")), *((name, (None, x)) for name, x in form.items())]
            made = client.post("/v1/embed", files=sent)
            assert made.status_code == status, made.text
        words = refused(client.post("/v1/lookup", files={"x": b"1"}), 422, "invalid")
        assert words.startswith("items[0] must be of the kind text for a query of this model")
        new = client.post("/v1/items", json={"items": [{"text": "red"}]})
        assert "must be of the kind image for a known item" in refused(new, 422, "invalid")

        card = client.get("/v1/model").json()
        assert (card["takes"], card["known_takes"]) == ("text", "image")
        assert (card["item_shape"], card["known_item_shape"]) == (None, [3, 8, 8])
        told = client.get("/openapi.json").json()
    schemas, paths = told["components"]["schemas"], told["paths"]
    assert set(schemas["Item"]["properties"]) == {"text", "embedding"}
    assert set(schemas["ItemOfKnown"]["properties"]) == {"image", "embedding"}
    assert {"image", "label"} < set(schemas["NewItem"]["properties"]) > {"embedding"}
    assert "text" not in schemas["NewItem"]["properties"]
    sides = schemas["Pair"]["properties"]
    assert sides["a"] == {"$ref": "#/components/schemas/Item"}
    assert sides["b"] == {"$ref": "#/components/schemas/ItemOfKnown"}
    assert "/v1/unknowns/{id}/enroll" not in paths
    forms = {
        name: paths[f"/v1/{name}"]["post"]["requestBody"]["content"]["multipart/form-data"]
        for name in ("match", "embed", "items", "verify")
    }
    offered = {name: set(form["schema"]["properties"]) for name, form in forms.items()}
    assert {"text"} == offered["match"] & {"text", "image"}
    assert {"text", "image"} == offered["embed"] & {"text", "image"}
    assert {"image"} == offered["items"] & {"text", "image"}
    assert {"label", "id", "metadata"} <= offered["items"]
    a, b = (forms["verify"]["schema"]["properties"][side] for side in "ab")
    assert (a.get("format"), b["format"]) == (None, "binary")
    assert forms["embed"]["schema"]["required"] == []


def test_a_picture_finds_texts_and_forms_hold_a_picture_beside_a_text():
    model = lw.SimilarityModel(
        ColorWords(),
        query_encoder=Colors(),
        query_preprocess=lw.data.Preprocess((3, 8, 8), (0.0,) * 3, (1.0,) * 3),
    )
    model.add((["a red one", "a blue one"], ["red", "blue"]))
    colors = torch.eye(3)[[0, 2], :, None, None].expand(2, 3, 8, 8)
    pairs = [[0, 0], [1, 1], [0, 1], [1, 0]]
    texts = lw.data.TextDataset(["red", "blue"], [0, 1])
    truth = [True, True, False, False]
    model.calibrate(
        lw.data.CrossPairs(lw.data.ArrayDataset(colors, [0, 1]), texts, pairs, truth), rule="pairs"
    )
    with served(model) as client:
        told = client.post("/v1/lookup", files={"image": picture_of("blue")}, data={"k": "1"})
        (near,) = told.json()["answers"][0]["neighbors"]
        assert (near["label"], near["distance"] < 0.01) == ("blue", True)
        for text, same in (("a red one", True), ("a blue one", False)):
            sides = {"a": ("a.png", picture_of("red")), "b": (None, text)}
            told = client.post("/v1/verify", files=sides).json()
            assert told["answers"][0]["same"] == same


# ---------------------------------------------------------------------------------------------
# Known items


def test_an_item_is_added_found_relabeled_and_removed(client, tmp_path):
    point = np.eye(8, dtype=np.float32)[7]
    item = {"vector": point.tolist(), "label": "seventh", "metadata": {"shop": "east"}}
    told = client.post("/v1/items", json={"items": [item]})
    assert told.status_code == 201
    (id_,) = told.json()["ids"]
    assert told.json()["indexed"] == 26
    with lw.Gallery(tmp_path / "known", read_only=True) as there:  # acknowledged, so on disk
        assert there.get([int(id_)]).embeddings.tolist() == [point.tolist()]
    assert client.post("/v1/match", json=asked([point])).json()["answers"][0]["label"] == "seventh"
    shown = {"id": id_, "label": "seventh", "metadata": {"shop": "east"}, "picture": False}
    assert client.get(f"/v1/items/{id_}").json() == shown
    told = client.patch(f"/v1/items/{id_}", json={"label": "7th"}).json()
    assert told == {**shown, "label": "7th"}
    assert client.post("/v1/match", json=asked([point])).json()["answers"][0]["label"] == "7th"
    assert client.patch(f"/v1/items/{id_}", json={"label": None}).json()["label"] is None
    assert client.delete(f"/v1/items/{id_}").json() == {"removed": 1, "left": 25}
    refused(client.get(f"/v1/items/{id_}"), 404, "not_found")
    refused(client.delete(f"/v1/items/{id_}"), 404, "not_found")
    refused(client.patch(f"/v1/items/{id_}", json={"label": "x"}), 404, "not_found")
    for odd in ("x", "-1", "1e3", "99999999999999999999", "%00", "١"):
        refused(client.get(f"/v1/items/{odd}"), 404, "not_found")


def test_items_are_listed_newest_first_in_pages(client):
    seen, before = [], None
    while True:
        page = {"limit": 10} | ({} if before is None else {"before": before})
        told = client.get("/v1/items", params=page).json()
        assert told["total"] == 25
        seen += [item["id"] for item in told["items"]]
        before = told["next"]
        if before is None:
            break
    assert seen == [str(at) for at in reversed(range(25))]
    told = client.get("/v1/items", params={"label": "class 2"}).json()
    assert {item["label"] for item in told["items"]} == {"class 2"}
    assert (told["total"], told["next"]) == (5, None)
    assert client.get("/v1/items", params={"label": "nothing"}).json()["items"] == []
    for odd in ({"limit": 0}, {"limit": "x"}, {"limit": 201}, {"other": 1}):
        refused(client.get("/v1/items", params=odd), 422, "invalid")
    refused(client.get("/v1/items", params={"before": "77"}), 404, "not_found")
    refused(client.get("/v1/unknowns", params={"label": "class 2"}), 422, "invalid")


def test_a_request_with_a_key_is_carried_out_once_also_after_a_restart(place, tmp_path):
    points, names = vectors(1, 5)
    items = [{"vector": p.tolist(), "label": n} for p, n in zip(points, names, strict=True)]
    head = {"Idempotency-Key": "order-77"}
    known = tmp_path / "known"
    with client_of(open_service(place, gallery=known)) as client:
        first = client.post("/v1/items", json={"items": items}, headers=head).json()
        again = client.post("/v1/items", json={"items": items}, headers=head).json()
        assert first == {**again, "repeated": False}
        assert again["repeated"]
        assert len(set(first["ids"])) == len(items)
    with client_of(open_service(place)) as client:
        after = client.post("/v1/items", json={"items": items}, headers=head).json()
        assert after == again
        other = client.post("/v1/items", json={"items": items[:1]}, headers=head)
        refused(other, 409, "key_reused")
        new = client.post("/v1/items", json={"items": items}, headers={"Idempotency-Key": "b"})
        assert new.json()["indexed"] == 25 + 2 * len(items)
        item = client.get(f"/v1/items/{first['ids'][0]}").json()
        assert item["metadata"] == {}
        for odd in ("", "two words", "x" * 256):
            sent = client.post("/v1/items", json={"items": items}, headers={"Idempotency-Key": odd})
            refused(sent, 422, "invalid")


def test_all_items_of_a_request_are_added_or_none(client):
    good = {"vector": [0.5] * 8, "label": "x"}
    for bad, code in (
        ({"vector": [1.0] * 7}, "invalid"),
        ({"vector": [1e300] * 8}, "invalid"),
        ({"vector": [1.0] * 8, "metadata": {"fingerprint": 3}}, "invalid"),
        ({"vector": [1.0] * 8, "embedding": [1.0] * 8}, "invalid"),
        ({"image": "aaaa"}, "invalid"),
        ({}, "invalid"),
    ):
        refused(client.post("/v1/items", json={"items": [good, bad]}), CODES[code][0], code)
    twice = [{**good, "id": "900"}, {**good, "id": "900"}]
    refused(client.post("/v1/items", json={"items": twice}), 422, "invalid")
    taken = [good | {"id": "3"}]
    refused(client.post("/v1/items", json={"items": taken}), 409, "id_taken")
    refused(client.post("/v1/items", json={"items": [good | {"id": "no"}]}), 422, "invalid")
    assert client.get("/v1/model").json()["indexed"] == 25
    assert client.post("/v1/items", json={"items": [good | {"id": "77"}]}).json()["ids"] == ["77"]


def test_ids_may_be_strings_and_are_made_where_none_is_given(tmp_path):
    model = lw.SimilarityModel(None)
    model.use_gallery(tmp_path / "known")
    item = {"vector": [1.0, 0.0], "label": "a"}
    with served(model, writes=True) as client:
        refused(
            client.post("/v1/lookup", json={"items": [{"vector": [1, 0]}]}), 409, "too_few_items"
        )
        told = client.post("/v1/items", json={"items": [{**item, "id": "first/1"}]}).json()
        assert told["ids"] == ["first/1"]
        for odd in (".", ".."):  # which an address loses on its way
            sent = client.post("/v1/items", json={"items": [{**item, "id": odd}]})
            refused(sent, 422, "invalid")
        told = client.post("/v1/items", json={"items": [item, {**item, "id": "b"}]}).json()
        assert told["ids"][1] == "b"
        assert len(told["ids"][0]) == 32
        assert client.get("/v1/items/b").json()["label"] == "a"
        found = client.post("/v1/lookup", json={"items": [{"vector": [1, 0]}], "k": 9}).json()
        assert len(found["answers"][0]["neighbors"]) == 3
        for odd in ("a/picture", "50%", "é", "%2F", "...", "a?b#c"):
            place = f"/v1/items/{quote(odd, safe='')}"
            refused(client.get(place), 404, "not_found")
            client.post("/v1/items", json={"items": [{**item, "id": odd}]})
            assert client.get(place).json()["id"] == odd
            refused(client.get(f"{place}/picture"), 404, "not_found")
            assert client.patch(place, json={"label": "z"}).json()["label"] == "z"
            assert client.delete(place).json()["left"] == 3


def test_without_a_gallery_nothing_can_be_changed(place):
    with client_of(open_service(place)) as client:
        item = {"vector": [1.0] * 8, "label": "a"}
        refused(client.post("/v1/items", json={"items": [item]}), 409, "read_only")
        refused(client.patch("/v1/items/3", json={"label": "a"}), 409, "read_only")
        refused(client.delete("/v1/items/3"), 409, "read_only")
        refused(client.get("/v1/unknowns"), 409, "not_kept")
        assert client.get("/v1/items/3").json()["label"] == "class 0"
        assert not client.get("/v1/model").json()["writes"]


def test_a_gallery_that_another_writes_is_followed(place, tmp_path):
    with client_of(open_service(place, gallery=tmp_path / "known")):
        pass
    with lw.Gallery(tmp_path / "known") as writer:
        with client_of(open_service(place, read_only=True)) as client:
            item = {"vector": [1.0] * 8, "label": "a"}
            refused(client.post("/v1/items", json={"items": [item]}), 409, "read_only")
            writer.add(torch.eye(8)[7:], labels=["seventh"])
            told = client.post("/v1/match", json=asked([np.eye(8)[7]])).json()
            assert told["answers"][0]["label"] == "seventh"


def test_moving_items_into_a_gallery_keeps_every_answer(place, tmp_path):
    points, _ = vectors(4, 7, spread=0.25)
    before = lw.load(place).match(points, point="sure")
    with client_of(open_service(place, gallery=tmp_path / "known")) as client:
        told = client.post("/v1/match", json=asked(points, point="sure")).json()
        assert [each["distance"] for each in told["answers"]] == before.distances.tolist()
    again = lw.load(place)
    assert again.gallery == str((tmp_path / "known").resolve())
    assert again.match(points, point="sure").labels.tolist() == before.labels.tolist()
    assert again.index.metadata([1]) == [{"shop": "north"}]
    with pytest.raises(lw.InputError, match="gallery must be that of the model"):
        open_service(place, gallery=tmp_path / "other")


# ---------------------------------------------------------------------------------------------
# Unknowns


def test_an_unknown_is_kept_enrolled_and_then_known(images, tmp_path):
    model = image_model()
    model.use_gallery(tmp_path / "known")
    model.add(lw.data.sample_items(lw.data.load("digits", split="train"), per_class=2))
    model.calibrate(lw.data.load("digits", split="train"), goal=at_most_false_accepts(0.02))
    rng = np.random.default_rng(3)
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(content, "PNG")
    upload = {"image": content.getvalue()}
    with served(model, writes=True, keep=tmp_path / "keep") as client:
        told = client.post("/v1/match", files=upload, data={"k": "1"}).json()["answers"][0]
        assert told["label"] is None
        id_ = told["unknown_id"]
        again = client.post("/v1/match", files=upload).json()["answers"][0]
        assert (again["label"], again["unknown_id"]) == (None, id_)  # there once
        (kept,) = client.get("/v1/unknowns").json()["unknowns"]
        assert (kept["id"], kept["distance"], kept["picture"]) == (id_, told["distance"], True)
        assert kept["nearest"] == told["neighbors"][0]["label"]
        assert abs(kept["time"] - time.time()) < 60
        picture = client.get(f"/v1/unknowns/{id_}/picture")
        assert picture.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(picture.content)).size == (8, 8)
        added = client.post(f"/v1/unknowns/{id_}/enroll", json={"label": "noise"})
        assert added.status_code == 201
        assert client.get("/v1/unknowns").json()["total"] == 0
        refused(client.get(f"/v1/unknowns/{id_}/picture"), 404, "not_found")
        known = client.post("/v1/match", files=upload).json()["answers"][0]
        assert known["label"] == "noise"
        assert known["distance"] == pytest.approx(0, abs=1e-6)
        (item,) = added.json()["ids"]
        assert client.get(f"/v1/items/{item}/picture").content == picture.content
        assert client.get(f"/v1/items/{item}").json()["metadata"] == {}
        refused(client.post("/v1/unknowns/x/enroll", json={"label": "a"}), 404, "not_found")


def test_the_queue_is_limited_in_number_and_age_and_survives_a_restart(place, tmp_path):
    far = -np.abs(np.random.default_rng(5).normal(size=(9, 8)))
    settings = Settings(keep_most=6)
    keep = tmp_path / "keep"
    with client_of(open_service(place, keep=keep, settings=settings)) as client:
        told = client.post("/v1/match", json=asked(far)).json()["answers"]
        assert {each["label"] for each in told} == {None}
        ids = [each["unknown_id"] for each in told]
        listed = client.get("/v1/unknowns", params={"limit": 4}).json()
        assert listed["total"] == 6
        rest = client.get("/v1/unknowns", params={"before": listed["next"]}).json()
        seen = [each["id"] for each in listed["unknowns"] + rest["unknowns"]]
        assert len(seen) == 6
        assert set(seen) <= set(ids)
        (gone,) = client.post("/v1/match", json=asked(far[:1])).json()["answers"]
        assert gone["unknown_id"] not in ids  # it was let go, so it is a new one
        listed = client.get("/v1/unknowns", params={"limit": 4}).json()
        assert listed["unknowns"][0]["id"] == gone["unknown_id"]
        rest = client.get("/v1/unknowns", params={"before": listed["next"]}).json()
        seen = [each["id"] for each in listed["unknowns"] + rest["unknowns"]]
        assert len(seen) == 6
        assert rest["next"] is None
        assert client.delete(f"/v1/unknowns/{seen[0]}").json() == {"removed": 1, "left": 5}
    with client_of(open_service(place, keep=keep, settings=settings)) as client:
        assert client.get("/v1/unknowns").json()["total"] == 5
    aged = Settings(keep_days=1e-9)
    with client_of(open_service(place, keep=keep, settings=aged)) as client:
        client.post("/v1/match", json=asked(far[:1] * 0.5))
        assert client.get("/v1/unknowns").json()["total"] <= 1


# ---------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"items": []}',
        b'{"items": [{}]}',
        b'{"items": [{"vector": []}]}',
        b'{"items": [{"vector": ["a"]}]}',
        b'{"items": [{"vector": [NaN]}]}',
        b'{"items": [{"vector": [1e999,1,1,1,1,1,1,1]}]}',
        b'{"items": [{"vector": [3.4028235e38,1,1,1,1,1,1,1]}]}',
        b'{"items": [{"vector": [1,1]}]}',
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "other": 1}',
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "k": -1}',
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "k": 1.5}',
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "k": 101}',
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "point": "other"}',
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "point": "pairs"}',
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "where": 3}',
        b'{"items": ' + b"[" * 100_000,
        b'{"items": [{"vector": [1,1,1,1,1,1,1,1]}], "where": ' + b'{"not":' * 5000,
        b'{"items": [{"image": "/etc/passwd"}]}',
        b'{"items": [{"image": "aHR0cDovL2E="}]}',
        b'{"items": [{"text": "a"}]}',
        b'{"items": [{"embedding": [1]}]}',
    ],
)
def test_a_body_that_does_not_fit_is_refused_in_the_envelope(client, body):
    sent = client.post("/v1/match", content=body, headers={"Content-Type": "application/json"})
    assert envelope(sent) == (422, "invalid"), sent.text


def test_addresses_methods_and_types_are_refused_in_the_envelope(client):
    refused(client.get("/v1/nothing"), 404, "not_found")
    refused(client.get("/v1/match/"), 404, "not_found")
    told = client.put("/v1/items/3")
    refused(told, 405, "method_not_allowed")
    assert told.headers["allow"] == "DELETE, GET, PATCH"
    refused(client.request("TRACE", "/v1/match"), 405, "method_not_allowed")
    refused(client.post("/", content=b""), 405, "method_not_allowed")
    refused(client.options("/v1/match"), 405, "method_not_allowed")
    plain = client.post("/v1/match", content=b"{}", headers={"Content-Type": "text/plain"})
    refused(plain, 415, "unsupported_media_type")
    refused(client.patch("/v1/items/3", data={"label": "x"}), 415, "unsupported_media_type")
    assert client.head("/v1/health").status_code == 200


def test_a_form_is_read_strictly(images):
    png = io.BytesIO()
    Image.new("L", (8, 8)).save(png, "PNG")
    upload = {"image": png.getvalue()}
    kind = "multipart/form-data; boundary=b"
    with served(images) as client:
        refused(client.post("/v1/match", files=upload, data={"k": "x"}), 422, "invalid")
        refused(client.post("/v1/match", files=upload, data={"other": "x"}), 422, "invalid")
        refused(client.post("/v1/match", files=upload, data={"where": "{"}), 422, "invalid")
        refused(client.post("/v1/match", files=upload, data={"k": ["1", "2"]}), 422, "invalid")
        refused(client.post("/v1/verify", files={"a": png.getvalue()}), 422, "invalid")
        for body in (
            b"",
            b"--b",
            b"--b\r\n\r\nx\r\n--b--\r\n",
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\nxx',
            b"--b\r\n" + b"x" * 10_000 + b": y\r\n\r\n\r\n--b--\r\n",
            b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\n\xff\r\n--b--\r\n',
        ):
            sent = client.post("/v1/match", content=body, headers={"Content-Type": kind})
            assert sent.status_code in (413, 422), sent.text
            refused(sent, sent.status_code, sent.json()["code"])
        many = (
            b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\n\r\n' * 1001 + b"--b--\r\n"
        )
        sent = client.post("/v1/match", content=many, headers={"Content-Type": kind})
        refused(sent, 413, "too_large")
        odd = client.post("/v1/match", content=b"", headers={"Content-Type": "multipart/form-data"})
        refused(odd, 422, "invalid")


def png_of(width, height):
    """A PNG whose header tells a size, and that holds nothing."""
    import struct
    import zlib

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def test_hostile_images_are_refused_undecoded(images):
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    jpeg = io.BytesIO()
    Image.new("RGB", (64, 64)).save(jpeg, "JPEG")
    polyglot = jpeg.getvalue() + b"PK\x03\x04<script>alert(1)</script>"
    with served(images, settings=Settings(most_pixels=1_000_000)) as client:
        for content, status in (
            (png_of(50_000, 50_000), 413),
            (png_of(1_001, 1_000), 413),
            (png_of(2**31 - 1, 2**31 - 1), 413),
            (png_of(0, 5), 422),
            (png_of(100, 100), 422),
            (svg, 422),
            (eps, 422),
            (b"", 422),
            (jpeg.getvalue()[:200], 422),
            (b"GIF89a" + b"\xff" * 50, 422),
            (b"BM" + b"\xff" * 100, 422),
            (b"II*\x00" + b"\xff" * 100, 422),
            (polyglot, 200),  # read as the picture that it is, and nothing else of it
        ):
            sent = client.post("/v1/embed", files={"image": content})
            assert sent.status_code == status, (content[:20], sent.text)
            assert "0x" not in sent.text
        told = client.post("/v1/embed", files={"image": png_of(5_000, 5_000)}).json()["sentence"]
        assert "1,000,000 pixels" in told


def test_a_body_beyond_the_limit_is_refused_declared_or_not(images):
    with served(images, settings=Settings(most_bytes=10_000)) as client:
        big = {"image": b"x" * 20_000}
        assert "10,000 bytes" in refused(client.post("/v1/embed", files=big), 413, "too_large")

        def parts():
            for _ in range(30):
                yield b"x" * 1000

        head = {"Content-Type": "application/json"}
        refused(client.post("/v1/embed", content=parts(), headers=head), 413, "too_large")
        assert client.app.budget.taken == 0


def test_memory_for_bodies_is_bounded(images):
    settings = Settings(most_bytes_waiting=5_000)
    with served(images, settings=settings) as client:
        told = client.post("/v1/embed", files={"image": b"x" * 6_000})
        refused(told, 503, "busy")
        assert told.headers["retry-after"] == "1"
        assert client.app.budget.taken == 0
        refused(client.post("/v1/embed", files={"image": b"x" * 1_000}), 422, "invalid")


def test_more_items_than_allowed_are_refused(place):
    with client_of(open_service(place, settings=Settings(most_items=3))) as client:
        points, _ = vectors(1, 3)
        assert client.post("/v1/match", json=asked(points[:3])).status_code == 200
        refused(client.post("/v1/match", json=asked(points[:4])), 413, "too_large")
        pair = {"a": {"vector": points[0].tolist()}, "b": {"vector": points[1].tolist()}}
        assert client.post("/v1/verify", json={"pairs": [pair] * 3}).status_code == 200
        refused(client.post("/v1/verify", json={"pairs": [pair] * 4}), 413, "too_large")


def test_a_model_without_a_calibration_says_so():
    model = lw.SimilarityModel(None)
    model.index.add(torch.eye(3), labels=["a", "b", "c"])
    with served(model) as client:
        refused(client.post("/v1/match", json=asked(np.eye(3))), 409, "not_calibrated")
        refused(client.get("/v1/drift"), 409, "not_calibrated")
        pair = {"a": {"vector": [1, 0, 0]}, "b": {"vector": [1, 0, 0]}}
        refused(client.post("/v1/verify", json={"pairs": [pair]}), 409, "not_calibrated")
        assert client.post("/v1/lookup", json=asked(np.eye(3), k=3)).status_code == 200


def test_requests_beyond_those_worked_on_are_refused(images, monkeypatch):
    gate, entered = threading.Event(), threading.Event()
    application = Application(Routes(images, Settings(most_concurrent=2)))
    prepare = application.routes.batcher._prepare

    def slow(job):
        entered.set()
        gate.wait(20)
        return prepare(job)

    monkeypatch.setattr(application.routes.batcher, "_prepare", slow)
    embedding = {"items": [{"embedding": [0.1] * images.index.dimension}]}
    with client_of(application) as client:
        got = []
        threads = [
            threading.Thread(target=lambda: got.append(client.post("/v1/lookup", json=embedding)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        entered.wait(20)
        while application._working < 2:
            time.sleep(0.01)
        told = client.post("/v1/lookup", json=embedding)
        refused(told, 503, "busy")
        assert told.headers["retry-after"] == "1"
        assert client.get("/v1/health").status_code == 200
        gate.set()
        for thread in threads:
            thread.join()
        assert [each.status_code for each in got] == [200, 200]
        assert client.post("/v1/lookup", json=embedding).status_code == 200


def test_a_client_that_asks_too_often_waits(place):
    settings = Settings(most_per_second=3)
    with client_of(open_service(place, settings=settings)) as client:
        got = [client.get("/v1/items/3").status_code for _ in range(8)]
        assert got[:3] == [200, 200, 200]
        assert 429 in got
        told = client.get("/v1/items/3")
        while told.status_code == 200:
            told = client.get("/v1/items/3")
        refused(told, 429, "too_many_requests")
        assert int(told.headers["retry-after"]) >= 1


def test_a_fault_of_ours_tells_nothing_of_itself(images, monkeypatch, caplog):
    application = Application(Routes(images, Settings()))

    def broken(jobs):
        raise KeyError("a secret of ours")

    monkeypatch.setattr(application.routes.batcher, "_answer", broken)
    with client_of(application) as client:
        told = client.post("/v1/lookup", json={"items": [{"embedding": [0.1] * 64}]})
        sentence = refused(told, 500, "internal")
        assert "secret" not in sentence
    assert "a secret of ours" in caplog.text


def test_a_full_disk_is_told_as_such(client, monkeypatch):
    def full(*_, **__):
        raise lw.GalleryError("gallery must be writable, got: No space left on device.")

    monkeypatch.setattr(lw.Gallery, "relabel", full)
    told = client.patch("/v1/items/3", json={"label": "x"})
    assert envelope(told) == (503, "storage_failed")
    assert "No space left" not in told.text


def test_once_told_to_stop_it_is_not_ready(client):
    assert client.get("/v1/ready").json() == {"status": "ready"}
    client.app.routes.is_ready = False
    refused(client.get("/v1/ready"), 503, "stopping")
    refused(client.get("/v1/model"), 503, "stopping")
    assert client.get("/v1/health").json() == {"status": "alive"}


# ---------------------------------------------------------------------------------------------
# Who may ask


def test_keys_open_what_their_scope_says(place, tmp_path):
    file = tmp_path / "keys.json"
    reader, writer = make_key(file, "reader"), make_key(file, "writer", "write")
    assert file.stat().st_mode & 0o777 == 0o600
    assert reader not in file.read_text()
    with pytest.raises(lw.InputError, match="name must be free"):
        make_key(file, "reader")
    item = {"items": [{"vector": [1.0] * 8, "label": "a"}]}
    with client_of(open_service(place, gallery=tmp_path / "known", keys=file)) as client:
        told = client.get("/v1/model")
        refused(told, 401, "unauthorized")
        assert told.headers["www-authenticate"] == "Bearer"
        for odd in ("Bearer x", "Bearer", f"Basic {reader}", f"Bearer {reader}x", "Bearer ä"):
            sent = client.get("/v1/model", headers={"Authorization": odd.encode("latin-1")})
            refused(sent, 401, "unauthorized")
        may_read = {"Authorization": f"Bearer {reader}"}
        may_write = {"Authorization": f"bearer {writer}"}
        assert client.get("/v1/model", headers=may_read).status_code == 200
        refused(client.post("/v1/items", json=item, headers=may_read), 403, "forbidden")
        refused(client.delete("/v1/items/3", headers=may_read), 403, "forbidden")
        assert client.post("/v1/items", json=item, headers=may_write).status_code == 201
        refused(client.get("/v1/metrics"), 401, "unauthorized")
        for public in ("/v1/health", "/v1/ready", "/openapi.json", "/"):
            assert client.get(public).status_code == 200
        remove_key(file, "reader")
        client.app.keys._looked = 0.0
        refused(client.get("/v1/model", headers=may_read), 401, "unauthorized")
        file.write_text("{")
        client.app.keys._looked = 0.0
        assert client.get("/v1/model", headers=may_write).status_code == 200
    with pytest.raises(lw.InputError, match="keys must be a file"):
        Keys(file)
    with pytest.raises(lw.InputError, match="not there"):
        Keys(tmp_path / "none.json")


def test_without_keys_no_page_from_elsewhere_may_ask(client):
    for head in (
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        refused(client.get("/v1/model", headers=head), 403, "forbidden")
    for head in (
        {"Host": "localhost:8000"},
        {"Host": "[::1]:8000"},
        {"Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "same-origin"},
    ):
        told = client.get("/v1/model", headers=head)
        assert told.status_code == 200
        assert not any(name.startswith("access-control") for name in told.headers)


def test_the_page_may_load_nothing_from_elsewhere(client):
    told = client.get("/")
    assert told.status_code == 200
    assert told.headers["content-type"].startswith("text/html")
    policy = told.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert told.headers["x-content-type-options"] == "nosniff"
    refused(client.get("/page/../keys.py"), 404, "not_found")
    refused(client.get("/page/%2e%2e/keys.py"), 404, "not_found")


# ---------------------------------------------------------------------------------------------
# What it says of itself


def test_the_document_names_every_endpoint_and_every_refusal(client):
    told = client.get("/openapi.json").json()
    served = client.app.routes.served(has_keys=False)
    assert told == json.loads(json.dumps(document(served)))
    assert "two_towers" not in json.dumps(told)
    assert set(told["components"]["schemas"]["Item"]["properties"]) == {"vector", "embedding"}
    assert told["components"]["schemas"]["Item"]["properties"]["vector"]["maxItems"] == 8
    for each in ENDPOINTS:
        operation = told["paths"][each.path][each.method.lower()]
        for code in each.codes:
            assert f"`{code}`" in operation["responses"][str(CODES[code][0])]["description"]
        assert callable(getattr(Routes, each.name))
    k = told["components"]["schemas"]["LookupRequest"]["properties"]["k"]
    assert (k["minimum"], k["maximum"], k["default"]) == (1, 100, 5)
    assert told["components"]["schemas"]["Envelope"]["required"] == [
        "code",
        "sentence",
        "request_id",
    ]


def test_the_document_offers_only_forms_and_points_that_the_model_has(client):
    def form(told, name):
        content = told["paths"][f"/v1/{name}"]["post"]["requestBody"]["content"]
        return content.get("multipart/form-data", {}).get("schema")

    told = client.get("/openapi.json").json()
    assert form(told, "match") is None  # of vectors
    bodies, (asked, _) = (
        told["components"]["schemas"],
        told["paths"]["/v1/drift"]["get"]["parameters"],
    )
    for schema in (bodies["MatchRequest"]["properties"]["point"], asked["schema"]):
        assert (schema["enum"], schema["default"]) == (["nearest", "sure"], "nearest")
    assert bodies["VerifyRequest"]["properties"]["point"]["enum"] == ["pairs"]
    client.app.routes.model.calibrate(vectors(60, 5), rule="center")
    again = client.get("/openapi.json").json()["components"]["schemas"]["MatchRequest"]
    assert again["properties"]["point"]["enum"] == ["center", "nearest", "sure"]

    text, file = {"type": "string", "minLength": 1}, {"type": "string", "format": "binary"}
    for takes, side in (("image", file), ("text", text)):
        told = document(Served(has_keys=False, takes=takes, points=("other",)))
        match, verify = form(told, "match"), form(told, "verify")
        assert list(match["properties"]) == [takes, "point", "k", "where", "candidates"]
        assert (match["required"], verify["required"]) == ([takes], ["a", "b"])
        assert match["properties"]["point"] == {**text, "enum": ["other"]}
        assert verify["properties"]["a"] == side


def test_the_pages_of_the_docs_name_every_code_and_address():
    page = (Path(__file__).parents[1] / "docs" / "service.md").read_text()
    for code, (status, _) in CODES.items():
        assert f"`{code}`" in page
        assert f"| {status} |" in page
    for each in ENDPOINTS:
        assert f"{each.method} {each.path}`" in page.replace("`PATCH", "`PATCH /v1/items/{id}")


def test_metrics_count_what_was_asked(client):
    points, _ = vectors(1, 3)
    client.post("/v1/match", json=asked(points))
    client.get("/v1/nothing")
    told = client.get("/v1/metrics")
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in told.text.splitlines() if not line.startswith("#"))
    assert lines['likewise_requests_total{route="/v1/match",status="200"}'] == "1.0"
    assert lines['likewise_refused_total{code="not_found"}'] == "1.0"
    assert lines['likewise_matched_total{outcome="known",point="nearest"}'] == "5.0"
    assert lines['likewise_matched_total{outcome="unknown",point="nearest"}'] == "1.0"
    assert lines["likewise_items"] == "25.0"
    assert lines["likewise_batch_items_sum"] == "6.0"


def test_the_log_has_a_line_per_request_and_nothing_of_the_items(client, caplog):
    from likewise.service.running import JsonLines

    caplog.set_level("INFO", "likewise.service")
    told = client.post(
        "/v1/items",
        json={"items": [{"vector": [1.0] * 8, "label": "a secret label"}]},
        headers={"X-Request-ID": "mine-1"},
    )
    assert told.headers["x-request-id"] == "mine-1"
    (record,) = [each for each in caplog.records if hasattr(each, "told")]
    line = json.loads(JsonLines().format(record))
    assert line["request_id"] == "mine-1"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/items", 201)
    assert line["seconds"] >= 0
    assert "secret" not in json.dumps(line)
    odd = client.get("/v1/health", headers={"X-Request-ID": "a b\x01"[:3]})
    assert odd.headers["x-request-id"] != "a b"


# ---------------------------------------------------------------------------------------------
# Many at once


def test_every_answer_is_of_one_state_while_another_enrolls(tmp_path):
    # Each item that is added is nearer to the query than all before, has a label of its own, and
    # the label is in its metadata too; every second one is removed again.
    model = lw.SimilarityModel(None)
    model.use_gallery(tmp_path / "known")
    model.index.add(torch.tensor([[1.0, 1.0]]), labels=["0"], metadata=[{"number": "0"}])
    added = 60
    done, wrong, seen = threading.Event(), [], set()
    with served(model, writes=True) as client:

        def read():
            while not done.is_set():
                told = client.post("/v1/lookup", json=asked([[1.0, 0.0]], k=3))
                if told.status_code != 200:
                    wrong.append(told.text)
                    return
                near = told.json()["answers"][0]["neighbors"]
                numbers = [int(each["label"]) for each in near]
                seen.add(numbers[0])
                if any(each["label"] != each["metadata"]["number"] for each in near):
                    wrong.append(near)
                if numbers != sorted(numbers, reverse=True):
                    wrong.append(near)

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        for number in range(1, added):
            name = str(number)
            item = {
                "vector": [1.0, 1.0 / (1 + number)],
                "label": name,
                "metadata": {"number": name},
            }
            (id_,) = client.post("/v1/items", json={"items": [item]}).json()["ids"]
            if number % 2:
                assert client.delete(f"/v1/items/{id_}").status_code == 200
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(seen) > 3


def test_what_is_read_while_something_changes_is_read_again():
    model = vector_model()
    routes = Routes(model, Settings())
    seen = []

    def read(changes):
        seen.append(len(model.index))
        if len(seen) <= changes:
            model.index.add(torch.ones(1, 8), labels=["more"])
        return seen[-1]

    assert routes.answerer._of_one_state(lambda size: read(0)) == 25
    seen.clear()
    assert routes.answerer._of_one_state(lambda size: read(2)) == 27
    seen.clear()
    found = routes.answerer._of_one_state(lambda size: read(100))  # at last while writers wait
    assert found == seen[-1]
    assert len(seen) == 5
    seen.clear()

    def gone(size):
        seen.append(1)
        if len(seen) == 1:
            model.index.remove([0])
            raise lw.InputError("ids must all be in the index, got one that was removed.")
        return "found"

    def of_the_caller(size):
        raise lw.InputError("of the caller")

    assert routes.answerer._of_one_state(gone) == "found"
    with pytest.raises(lw.InputError, match="of the caller"):
        routes.answerer._of_one_state(of_the_caller)
    routes.close()
