"""`find_drift`: alarms where something has changed, and only there, with a reason for each."""

import json
import warnings

import numpy as np
import pytest
import torch

import likewise as lw
from likewise.errors import InputError
from likewise.journeys.drift import find_drift, point_drift

MIDDLES = np.random.default_rng(9).normal(size=(12, 8))


def drawn(count, seed, *, classes=8, spread=0.5):
    rng = np.random.default_rng(seed)
    codes = rng.integers(classes, size=count)
    items = MIDDLES[codes] + spread * rng.normal(size=(count, 8))
    return items.astype("float32"), [f"class {code:02d}" for code in codes]


def calibrated(seed=0, *, classes=8, **options):
    """A model of eight classes; with more in the calibration, there are real unknowns."""
    model = lw.SimilarityModel(None)
    model.add(drawn(80, 3 * seed))
    model.calibrate(drawn(160, 3 * seed + 1, classes=classes), **options)
    return model


@pytest.mark.parametrize("classes", [8, 11])
def test_false_alarms_are_as_rare_as_asked(classes):
    alarms = 0
    for seed in range(12):
        model = calibrated(seed, classes=classes)
        found = find_drift(model, drawn(90, 3 * seed + 2, classes=classes), false_alarm=0.1)
        alarms += found.calibrate_again
    assert alarms <= 4  # of 12; more by chance once in 200 times


def test_another_share_of_real_unknowns_is_no_reason():
    model = calibrated(classes=11)
    items, names = drawn(1200, 2, classes=11)
    known = np.array([name < "class 08" for name in names])
    rows = np.sort(np.concatenate([np.flatnonzero(known)[:40], np.flatnonzero(~known)]))
    point = find_drift(model, (items[rows], [names[row] for row in rows])).points["nearest"]
    assert point.alike
    assert not point.drift.drifted


def test_another_spread_is_a_reason_to_calibrate_again():
    model = calibrated()
    found = find_drift(model, drawn(160, 2, spread=1.0))
    point = found.points["nearest"]
    assert found.calibrate_again
    assert point.alike
    assert "calibrate again, with data of today" in point.reasons[0]
    matched = model.match(drawn(160, 2, spread=1.0)[0])
    assert point.unknown.value == pytest.approx(float((~matched.accepted).float().mean()))


def test_without_labels_a_gap_that_the_mixture_may_explain_is_no_reason():
    model = calibrated()
    found = find_drift(model, drawn(160, 2)[0])
    point = found.points["nearest"]
    assert point.drift.drifted, "known items alone are nearer than those of the calibration"
    assert not point.alike
    assert not found.calibrate_again
    assert "another share of unknowns alone may explain that" in point.advice
    assert (found.labeled, found.losing) == (0, None)
    assert not find_drift(model, drawn(160, 2)).points["nearest"].drift.drifted


def test_classes_that_lose_their_items_are_those_counted_by_hand():
    model = calibrated()
    items, names = drawn(120, 2)
    items[np.array(names) == "class 03"] += MIDDLES[5] - MIDDLES[3]
    found = find_drift(model, (items, names))
    near = model.lookup(items, k=1).labels[:, 0].tolist()
    by_hand = {}
    for name, code in zip(names, near, strict=True):
        by_hand.setdefault(name, []).append(model.class_names[code] != name)
    told = {each.class_name: (each.lost, each.items) for each in found.losing}
    assert told == {name: (sum(lost), len(lost)) for name, lost in by_hand.items() if any(lost)}
    worst = found.losing[0]
    assert (worst.class_name, worst.to) == ("class 03", "class 05")
    assert worst.share.low > 0.5
    assert any("class 'class 03' loses most of its items" in line for line in found.advice)
    assert "lost: class 03" in repr(found)


def test_an_outgrown_gallery_is_a_reason():
    model = calibrated(goal=lw.at_most_false_accepts(0.4, confidence=0.6))
    assert not find_drift(model, drawn(160, 2)).calibrate_again
    model.add(drawn(300, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_drift(model, drawn(160, 2))
    assert any(
        "gallery must hold at most 80 items" in each for each in found.points["nearest"].reasons
    )


def test_pairs_need_labels():
    model = calibrated(rule="pairs")
    items, names = drawn(160, 2)
    assert find_drift(model, items).points["pairs"].advice == "No pairs to compare."
    assert not find_drift(model, (items, names)).calibrate_again
    assert find_drift(model, drawn(160, 2, spread=1.5)).calibrate_again


def test_every_rule_is_asked_and_the_report_is_json():
    model = calibrated()
    for rule in ("majority", "center"):
        model.calibrate(drawn(160, 1), rule=rule, k=3 if rule == "majority" else 1)
    model.calibrate(drawn(160, 1), point="own", per_class=True, fewest=5)
    found = find_drift(model, drawn(100, 2))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert set(told["points"]) == {"nearest", "majority", "center", "own"}
    assert all(point["drift"]["p_value"] > 0.01 for point in told["points"].values())


def test_what_says_nothing_is_refused():
    with pytest.raises(InputError, match="model must be calibrated to tell drift"):
        find_drift(lw.SimilarityModel(None), drawn(5, 0))
    with pytest.raises(InputError, match="got 80 that all are"):
        find_drift(calibrated(), drawn(80, 0))
    with pytest.raises(InputError, match="false_alarm must be"):
        find_drift(calibrated(), drawn(5, 2), false_alarm=2)


def test_a_calibration_without_a_sample_asks_for_another():
    import dataclasses

    made = dataclasses.replace(calibrated().calibrations["nearest"], sample=())
    found = point_drift("nearest", made, torch.rand(9), gallery_size=80)
    assert (found.drift, found.calibrate_again) == (None, True)


def test_the_command_tells_the_same(tmp_path, run):
    model = calibrated()
    model.save(tmp_path / "model")
    items, names = drawn(160, 2, spread=1.0)
    np.save(tmp_path / "today.npy", items)
    (tmp_path / "names.txt").write_text("\n".join(names))
    asked = ("drift", tmp_path / "model", tmp_path / "today.npy")
    status, told, _ = run(*asked, "--labels", tmp_path / "names.txt", "--json")
    assert status == 0
    assert json.loads(told) == json.loads(json.dumps(find_drift(model, (items, names)).to_dict()))
    status, told, _ = run(*asked)
    assert status == 0
    assert "no need to calibrate again" in told
    status, _, told = run(*asked, "--false-alarm", "2")
    assert status == 2
    assert "Traceback" not in told
