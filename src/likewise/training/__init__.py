"""Training: `fit` runs the loop, callbacks look on after each epoch, checkpoints resume it."""

from likewise.training.checkpoints import load_weights as load_weights
from likewise.training.chunks import Chunks as Chunks
from likewise.training.following import KeepBest as KeepBest
from likewise.training.following import StopEarly as StopEarly
from likewise.training.history import History as History
from likewise.training.loop import Callback as Callback
from likewise.training.loop import fit as fit
from likewise.training.processes import is_first_process as is_first_process
from likewise.training.schedules import Schedule as Schedule
from likewise.training.schedules import constant as constant
from likewise.training.schedules import cosine as cosine
from likewise.training.tracking import Track as Track
