import json
import math

import pytest
import torch
from scipy import stats

from likewise.evaluation.repetition import repeat
from likewise.intervals import Estimate


def numbers(seed):
    return {"accuracy": 0.8 + 0.01 * (seed % 3), "unseen": {"map_at_r": seed / 10}}


def test_every_number_gets_its_mean_interval_least_and_most():
    told = []
    found = repeat(numbers, seeds=[4, 0, 2], progress=lambda *at: told.append(at))
    values = [0.81, 0.8, 0.82]
    assert found.values == {"accuracy": pytest.approx(values), "unseen.map_at_r": [0.4, 0.0, 0.2]}
    low, high = stats.t.interval(0.95, 2, 0.81, stats.sem(values))
    mean = found.means["accuracy"]
    assert (mean.value, mean.low, mean.high) == pytest.approx((0.81, low, high))
    assert mean.method == "95% Student t over 3 seeds, on the same data"
    assert (found.least["unseen.map_at_r"], found.most["unseen.map_at_r"]) == (0.0, 0.4)
    assert (found.seeds, told) == ([4, 0, 2], [(1, 3), (2, 3), (3, 3)])
    assert len(found.seconds) == 3
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["seeds"] == [4, 0, 2]


def test_one_seed_has_no_interval():
    (mean,) = repeat(lambda seed: {"x": 3}, seeds=1).means.values()
    assert mean.value == 3
    assert math.isnan(mean.low)


def test_estimates_and_tensors_count_by_their_value():
    estimate = Estimate(0.5, 0.4, 0.6, "by hand")
    found = repeat(lambda seed: {"a": estimate, "b": torch.tensor(2.0 + seed)}, seeds=2)
    assert found.values == {"a": [0.5, 0.5], "b": [2.0, 3.0]}


def test_finished_runs_are_kept_and_not_run_again(tmp_path):
    ran, out = [], tmp_path / "runs" / "here"

    def experiment(seed):
        ran.append(seed)
        if seed == 2 and len(ran) == 3:
            raise RuntimeError("out of memory")
        return numbers(seed)

    with pytest.raises(RuntimeError, match="out of memory"):
        repeat(experiment, seeds=4, out=out, settings={"epochs": 3})
    assert sorted(path.name for path in out.iterdir()) == ["run-0.json", "run-1.json"]
    first = json.loads((out / "run-1.json").read_text())
    assert first["settings"] == {"epochs": 3}
    assert first["values"] == {"accuracy": 0.81, "unseen.map_at_r": 0.1}
    found = repeat(experiment, seeds=4, out=out, settings={"epochs": 3})
    assert ran == [0, 1, 2, 2, 3]
    assert found.values == repeat(numbers, seeds=4).values
    assert found.seconds[1] == first["seconds"]


def test_kept_runs_of_other_settings_are_refused_before_any_work(tmp_path):
    repeat(numbers, seeds=[1], out=tmp_path, settings={"epochs": 3})
    ran = []
    with pytest.raises(ValueError, match=r"settings must be those that .*run-1.json' was run with"):
        repeat(lambda seed: ran.append(seed), seeds=2, out=tmp_path, settings={"epochs": 4})
    assert ran == []


def spoil(path):
    path.write_text('{"seed": 1}')


def exchange(path):
    path.rename(path.with_name("run-0.json"))


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [spoil, exchange, replace_by_a_folder])
def test_what_repeat_has_not_kept_is_refused(spoil, tmp_path):
    repeat(numbers, seeds=[1], out=tmp_path)
    spoil(tmp_path / "run-1.json")
    with pytest.raises(
        ValueError, match=r"out must hold runs as repeat keeps them, got .*run-[01]"
    ):
        repeat(numbers, seeds=2, out=tmp_path)


@pytest.mark.parametrize(
    ("result", "kind", "sentence"),
    [
        ({"x": math.nan}, ValueError, "must give finite numbers, got nan as x"),
        ({"x": "good"}, TypeError, "must give numbers, estimates or dicts of them, got x as str"),
        ({"x": True}, TypeError, "got x as bool"),
        ({}, TypeError, "must give a dict of numbers by name, got an empty one"),
        (0.9, TypeError, "must give a dict of numbers by name, got float"),
        ({"a.b": 1, "a": {"b": 2}}, ValueError, "must give each name once, got a.b twice"),
    ],
)
def test_what_is_no_number_is_refused_and_not_kept(tmp_path, result, kind, sentence):
    with pytest.raises(kind, match=sentence):
        repeat(lambda seed: result, seeds=2, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"seeds": 0}, ValueError, "seeds must be at least 1, got 0"),
        (
            {"seeds": [1, 1]},
            ValueError,
            r"seeds must be different ones, at least one, got \[1, 1\]",
        ),
        ({"seeds": []}, ValueError, "seeds must be different ones"),
        ({"seeds": None}, TypeError, "seeds must be a whole number, got None"),
        ({"seeds": 1.5}, TypeError, "seeds must be a whole number, got 1.5"),
        ({"seeds": [0.5]}, TypeError, "each of seeds must be a whole number, got 0.5"),
        ({"settings": {"a": {1}}}, TypeError, "settings must be what JSON can hold"),
        ({"settings": [1]}, TypeError, "settings must be a dict of settings by name"),
        ({"out": __file__}, ValueError, "out must be a folder, got the file"),
        (
            {"out": __file__ + "/runs"},
            ValueError,
            r"out must be a folder, got '.*/runs' in the file",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, kind, sentence):
    with pytest.raises(kind, match=sentence):
        repeat(numbers, **arguments)


def test_runs_that_tell_different_things_are_refused(tmp_path):
    with pytest.raises(ValueError, match="same names for every seed, got extra not in both seed 0"):
        repeat(lambda seed: {"x": 1, **({"extra": 1} if seed else {})}, seeds=2, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
