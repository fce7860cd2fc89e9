"""What a service sees of its answers: distances of today, and rates by the hour."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch

from likewise._files import read_regular, write_whole
from likewise.calibration import Calibration
from likewise.drift import MOST
from likewise.errors import InputError
from likewise.journeys.drift import point_drift
from likewise.service import bodies

HOUR = 3600.0
HOURS = 24 * 7
LARGEST = 2**26  # bytes of the file that keeps it; of 10,000 distances about 200,000
_log = logging.getLogger(__name__)


class _Seen(msgspec.Struct, forbid_unknown_fields=True):
    """What was seen of one operating point.

    Attributes:
        mark: Mark of its calibration.
        distances: The last ones; null where no neighbor had a vote.
        hours: The last ones.
    """

    mark: str
    distances: list[float | None]
    hours: list[bodies.Hour]


class Watch:
    """Remembers the distances of matches.

    Args:
        path: A file that keeps distances and hours over a restart; None to keep none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._distances: dict[str, deque[float]] = {}
        self._hours: dict[str, deque[bodies.Hour]] = {}
        self._marks: dict[str, str] = {}
        self._is_saved = True
        self._lock = threading.Lock()
        if path is not None and path.exists():
            self._restore(path)

    def calibrated(self, marks: Mapping[str, str]) -> None:
        """Forget the distances of points that were calibrated anew, by the mark of each."""
        with self._lock:
            for name in list(self._distances):
                if self._marks.get(name) != marks.get(name):
                    del self._distances[name]
            self._marks = dict(marks)

    def save(self) -> None:
        """Write the distances and the hours, where something came since."""
        with self._lock:
            if self.path is None or self._is_saved:
                return
            seen = {
                name: _Seen(
                    self._marks.get(name, ""), list(self._distances.get(name, ())), list(hours)
                )
                for name, hours in self._hours.items()
            }
            content = msgspec.json.encode(seen)  # infinity becomes null
            self._is_saved = True
        try:
            write_whole(self.path, content)
        except OSError:  # a full disk must not end the service
            self._is_saved = False
            _log.exception("distances cannot be written; they stay in memory")

    def _restore(self, path: Path) -> None:
        try:
            seen = msgspec.json.decode(read_regular(path, LARGEST), type=dict[str, _Seen])
        except (OSError, InputError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            _log.exception("the distances of before cannot be read; counting begins anew")
            return
        for name, told in seen.items():
            distances = (math.inf if each is None else each for each in told.distances)
            self._distances[name] = deque(distances, maxlen=MOST)
            self._hours[name] = deque(told.hours, maxlen=HOURS)
            self._marks[name] = told.mark

    def saw_matches(self, point: str, answers: list[bodies.MatchAnswer]) -> None:
        """Remember the distances of matches."""
        unknown = sum(answer.label is None for answer in answers)
        near = [answer.distance for answer in answers if answer.distance is not None]
        began = time.time() // HOUR * HOUR
        with self._lock:
            self._is_saved = False
            kept = self._distances.setdefault(point, deque(maxlen=MOST))
            kept.extend(torch.inf if a.distance is None else a.distance for a in answers)
            hours = self._hours.setdefault(point, deque(maxlen=HOURS))
            if not hours or hours[-1].time != began:
                hours.append(bodies.Hour(began, 0, 0, None))
            hour = hours[-1]
            finite = hour.matched if hour.distance is not None else 0
            hour.matched += len(answers)
            hour.unknown += unknown
            if near:
                before = 0.0 if hour.distance is None else hour.distance * finite
                hour.distance = (before + sum(near)) / (finite + len(near))

    def drift(
        self, point: str, made: Calibration, gallery_size: int, false_alarm: float
    ) -> bodies.DriftReport:
        """Whether today's distances look like those of a calibration."""
        with self._lock:
            seen = list(self._distances.get(point, ()))
            hours = [
                bodies.Hour(hour.time, hour.matched, hour.unknown, hour.distance)
                for hour in self._hours.get(point, ())
            ]
        told = point_drift(
            point,
            made,
            torch.tensor(seen) if seen else None,
            false_alarm=false_alarm,
            gallery_size=gallery_size,
        )
        found = told.drift
        return bodies.DriftReport(
            point=point,
            seen=len(seen),
            drifted=None if found is None else found.drifted,
            gap=None if found is None else found.gap,
            p_value=None if found is None else found.p_value,
            false_alarm=false_alarm,
            accepted_before=None if found is None else found.accepted_before,
            accepted_now=None if found is None else found.accepted_now,
            calibrate_again=list(told.reasons),
            advice=told.advice,
            outgrown=told.outgrown,
            hours=hours,
        )
