"""An experiment run with several seeds: every number with its mean, interval, least and most."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path

import torch
from torch import Tensor

from likewise import _tables, intervals
from likewise._checks import check_count, check_folder_target
from likewise._files import write_whole
from likewise.errors import InputError, InputTypeError
from likewise.evaluation._plain import plain_fields
from likewise.intervals import Estimate

Experiment = Callable[[int], Mapping[str, object]]
Run = tuple[dict[str, float], float]  # its numbers by name, its seconds


@dataclass(frozen=True)
class Repeated:
    """The numbers of several runs.

    Attributes:
        means: by name, the mean with its Student t interval over the seeds.
        least: by name, the smallest of the runs.
        most: by name, the largest of the runs.
        values: by name, the number of each run, in the order of `seeds`.
        seeds: Seeds of the runs.
        seconds: Seconds that each run took.
    """

    means: dict[str, Estimate]
    least: dict[str, float]
    most: dict[str, float]
    values: dict[str, list[float]]
    seeds: list[int]
    seconds: list[float]

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def _table(self) -> _tables.Table:
        rows = [("", "mean", "least", "most")]
        for name, mean in self.means.items():
            rows.append((name, f"{mean}", f"{self.least[name]:.4g}", f"{self.most[name]:.4g}"))
        return _tables.Table(f"Repeated with {len(self.seeds)} seeds", rows, headings=True)

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return plain_fields(self, *self.__dataclass_fields__)


def repeat(
    experiment: Experiment,
    *,
    seeds: int | Sequence[int] = 5,
    out: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Repeated:
    """The numbers of an experiment over seeds, each a mean with its interval.

    The interval tells what another seed would give on the same data; it knows nothing of other
    data. `compare_runs` tells whether two recipes differ.

    Args:
        experiment: called with a seed; gives numbers by name. An `Estimate` counts by its value,
            and a dict within becomes names with a dot, "unseen.map_at_r".
        seeds: The number of seeds, from 0 on, or the seeds themselves.
        out: folder that keeps each run as soon as it is finished, run-SEED.json; runs that it
            has are not run again, so that work that was stopped goes on. It is made if needed.
        settings: what the experiment depends on beside the seed, as JSON can hold it; kept with
            each run, and runs of other settings are refused.
        progress: called as progress(done, total) after each run.

    Raises:
        InputTypeError: for a result that is no number, or settings that JSON cannot hold.
        InputError: for no seeds or one twice, a number that is not finite, runs that differ in
            their names, or kept runs that are of other settings or cannot be read.
        Exception: whatever the experiment raises; what was finished before stays in `out`.

    Example:
        >>> found = repeat(lambda seed: {"accuracy": 0.9 + 0.01 * seed}, seeds=3)
        >>> print(found.means["accuracy"], found.most)
        0.910 [0.885, 0.935] {'accuracy': 0.92}
    """
    listed = _checked_seeds(seeds)
    told = _plain_settings({} if settings is None else settings)
    folder = None if out is None else Path(out)
    if folder is not None:
        check_folder_target("out", folder)
        folder.mkdir(parents=True, exist_ok=True)
    kept = {seed: _kept(folder, seed, told) for seed in listed}  # refused before any work
    runs: list[Run] = []
    for done, seed in enumerate(listed, start=1):
        run = kept[seed]
        if run is None:
            started = time.perf_counter()
            run = _numbers(experiment(seed)), time.perf_counter() - started
            if folder is not None:
                _keep(folder, seed, told, *run)
        if runs and run[0].keys() != runs[0][0].keys():
            other = sorted(run[0].keys() ^ runs[0][0].keys())
            raise InputError(
                f"experiment must give the same names for every seed, got {', '.join(other)} "
                f"not in both seed {listed[0]} and seed {seed}."
            )
        runs.append(run)
        if progress is not None:
            progress(done, len(listed))
    values = {name: [run[0][name] for run in runs] for name in runs[0][0]}
    return Repeated(
        means={name: _mean(row) for name, row in values.items()},
        least={name: min(row) for name, row in values.items()},
        most={name: max(row) for name, row in values.items()},
        values=values,
        seeds=listed,
        seconds=[run[1] for run in runs],
    )


def _mean(values: list[float]) -> Estimate:
    estimate = intervals.mean(torch.tensor(values, dtype=torch.float64))
    over = f"{len(values)} seeds, on the same data"
    return replace(
        estimate, method=estimate.method.replace(f"{len(values)} values taken as independent", over)
    )


def _numbers(result: object) -> dict[str, float]:
    """The numbers of a result by name, those of dicts within with a dot."""
    if not isinstance(result, Mapping) or not result:
        got = "an empty one" if isinstance(result, Mapping) else type(result).__name__
        raise InputTypeError(f"experiment must give a dict of numbers by name, got {got}.")
    numbers: dict[str, float] = {}
    for name, value in result.items():
        if isinstance(value, Mapping):
            inner = {f"{name}.{key}": number for key, number in _numbers(value).items()}
        else:
            inner = {str(name): _number(name, value)}
        if twice := sorted(numbers.keys() & inner.keys()):
            raise InputError(
                f"experiment must give each name once, got {twice[0]} twice. Rename one."
            )
        numbers |= inner
    return numbers


def _number(name: object, value: object) -> float:
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (Real, Estimate)):
        raise InputTypeError(
            f"experiment must give numbers, estimates or dicts of them, got {name} as "
            f"{type(value).__name__}. Leave it out."
        )
    if not math.isfinite(float(value)):
        raise InputError(f"experiment must give finite numbers, got {float(value)} as {name}.")
    return float(value)


def _checked_seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        check_count("seeds", seeds)
        return list(range(seeds))
    for seed in seeds:
        check_count("each of seeds", seed, least=0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must be different ones, at least one, got {list(seeds)}.")
    return list(seeds)


def _plain_settings(settings: Mapping[str, object]) -> object:
    if not isinstance(settings, Mapping):
        raise InputTypeError(
            f"settings must be a dict of settings by name, got {settings!r}. Give them names."
        )
    try:
        return json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"settings must be what JSON can hold, got {dict(settings)} ({error}). "
            "Use text, numbers, lists and dicts."
        ) from error


def _keep(
    folder: Path, seed: int, settings: object, values: dict[str, float], seconds: float
) -> None:
    run = {"seed": seed, "settings": settings, "seconds": seconds, "values": values}
    content = json.dumps(run, indent=1, allow_nan=False) + "\n"
    write_whole(folder / f"run-{seed}.json", content.encode())


def _kept(folder: Path | None, seed: int, settings: object) -> Run | None:
    """The values and seconds of a run that is finished; None if it is not."""
    path = None if folder is None else folder / f"run-{seed}.json"
    if path is None or not path.exists():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        values, seconds, made_with = _numbers(run["values"]), float(run["seconds"]), run["settings"]
        if run["seed"] != seed:
            raise InputError(f"the seed is {run['seed']}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"out must hold runs as repeat keeps them, got {str(path)!r} that is not the run of "
            f"seed {seed}. Remove it."
        ) from error
    if made_with != settings:
        raise InputError(
            f"settings must be those that {str(path)!r} was run with, {made_with}, got "
            f"{settings}. Use another folder."
        )
    return values, seconds
