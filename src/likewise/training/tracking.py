"""`Track`: a callback of `fit` that sends its records to TensorBoard, W&B, MLflow and others."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from likewise._checks import check_choice, check_folder_target
from likewise.errors import InputError, MissingExtra

NAMES = ("mlflow", "tensorboard", "wandb")


class Track:
    """Sends the numbers of each epoch to a tracker, as one of Accelerate's does.

    The tracker starts with the first record and is finished when the training ends, however it
    ends; called again, it starts again. Nothing goes over a network unless the settings or the
    environment name a server.

    Args:
        tracker: "tensorboard", "wandb", "mlflow", or an `accelerate.tracking.GeneralTracker`.
        folder: where trackers that write files do so; MLflow's is a database in it.
        run: what the training goes by. TensorBoard writes to `folder/run`; for W&B it is the
            project, for MLflow the experiment.
        settings: more arguments of Accelerate's tracker, which gives them on to
            `SummaryWriter`, `wandb.init` and so on.

    Raises:
        InputError: it is none of these.
        MissingExtra: its package is not installed. TensorBoard comes with
            `pip install "likewise[trackers]"`.

    Source:
        https://huggingface.co/docs/accelerate/usage_guides/tracking.
    """

    def __init__(
        self,
        tracker: Any = "tensorboard",
        *,
        folder: str | Path = "runs",
        run: str = "likewise",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        from accelerate.tracking import GeneralTracker

        self._started = False
        self._tracker: Any = tracker
        if not isinstance(tracker, GeneralTracker):
            self._tracker = _by_name(tracker, Path(folder), run, dict(settings or {}))
        elif settings:
            raise InputError(
                f"settings must be left out for a tracker that is made already, got {settings}. "
                "Make it with them."
            )

    def __call__(self, record: dict[str, float], encoder: nn.Module) -> None:
        """Log every number of the record at its epoch."""
        if not self._started:
            self._tracker.start()
            self._started = True
        numbers = {name: value for name, value in record.items() if name != "epoch"}
        self._tracker.log(numbers, step=int(record["epoch"]))

    def finish(self) -> None:
        """Tell the tracker that the training is over; `fit` does so at its end."""
        if self._started:
            self._tracker.finish()
            self._started = False


def _by_name(name: str, folder: Path, run: str, settings: dict[str, Any]) -> Any:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    check_choice("tracker", name, NAMES)
    if name not in {str(kind) for kind in get_available_trackers()}:
        wanted = '"likewise[trackers]"' if name == "tensorboard" else name
        raise MissingExtra(
            f"tracker must be one whose package is installed, got {name!r} without it. "
            f"Use pip install {wanted}."
        )
    if name == "wandb":
        settings = {"mode": "offline", "dir": str(folder), **settings}
    else:
        settings = {"logging_dir": str(folder), **settings}
    check_folder_target("folder", folder)
    folder.mkdir(parents=True, exist_ok=True)
    if name == "mlflow":
        mlflow: Any = importlib.import_module("mlflow")
        if not mlflow.is_tracking_uri_set():
            mlflow.set_tracking_uri(f"sqlite:///{folder.resolve() / 'mlflow.db'}")
    return LOGGER_TYPE_TO_CLASS[name](run, **settings)
