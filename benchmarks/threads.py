"""Eight threads on one model and one index: adding, removing, relabeling, looking up.

    python benchmarks/threads.py [--seconds S]

Every embedding, id and label tells the number of its item, and every answer is checked against
them: its id, distance and label must belong together and to a state that existed. Python switches
threads a million times a second. Prints a table; `mixed` and `lost` must be 0.
"""

import argparse
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

import likewise as lw
from likewise.distances import EUCLIDEAN

THREADS, STEADY, PER_THREAD = 8, 50, 20
TURNS = 3  # labels that an item takes, one after the other


def row(number: int) -> torch.Tensor:
    """What is encoded to itself, and tells the number."""
    return torch.tensor([[float(number), float(number % 13)]])


class Counts:
    """What the threads did and found, counted under a lock."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, name: str, count: int = 1) -> None:
        with self._lock:
            self.counted[name] += count


def look(index: object, counts: Counts, random_: random.Random, lookup: Callable) -> None:
    """Look something up and judge every row of the answer."""
    where = random_.choice([None, {"odd": 1}, {"n": {">=": 40}}])
    asked = [random_.randrange(STEADY + THREADS * PER_THREAD) for _ in range(3)]
    found = lookup(torch.cat([row(n) for n in asked]), k=5, where=where)
    counts("lookups")
    for query, ids, distances, labels in zip(
        asked, found.ids.tolist(), found.distances.tolist(), found.labels.tolist(), strict=True
    ):
        for id_, distance, label in zip(ids, distances, labels, strict=True):
            counts("rows")
            number = int(id_[1:]) if id_ else -1
            exact = float(EUCLIDEAN.paired(row(query), row(number))[0]) if id_ else torch.inf
            # Through the model an item is added first, and labeled then.
            may = (-1, *range(number * TURNS, (number + 1) * TURNS))
            is_right = distance == exact and label in may
            passes = (
                where is None
                or (where == {"odd": 1} and number % 2 == 1)
                or ("n" in where and number >= 40)
            )
            if id_ and not (is_right and passes):
                counts("mixed")
        if where is None and ids[0] != f"i{query}" and query < STEADY:
            counts("lost")  # an item that nobody removes


def work(
    name: int, index: object, add: Callable, lookup: Callable, counts: Counts, ends: float
) -> None:
    """What one thread does: its own items come, change and go."""
    random_ = random.Random(name)
    own = [STEADY + name * PER_THREAD + n for n in range(PER_THREAD)]
    stored: set[int] = set()
    while time.monotonic() < ends:
        number = random_.choice(own)
        id_ = f"i{number}"
        if number not in stored:
            add(number)
            stored.add(number)
            counts("added")
        elif random_.random() < 0.5:
            index.remove([id_])
            stored.discard(number)
            counts("removed")
        else:
            index.relabel([id_], [number * TURNS + random_.randrange(TURNS)])
            counts("relabeled")
        for each in random_.sample(own, 3):
            if (f"i{each}" in index.ids.tolist()) != (each in stored):
                counts("lost")
        look(index, counts, random_, lookup)
        summary = index.summary()
        if not 0 <= summary.items - sum(summary.items_per_class.values()) <= THREADS:
            counts("mixed")
    for number in stored:
        items = index.get([f"i{number}"])
        if items.embeddings.tolist() != row(number).tolist() or items.metadata[0]["n"] != number:
            counts("mixed")


def run(index: object, add: Callable, lookup: Callable, seconds: float) -> Counts:
    counts, errors = Counts(), []
    for number in range(STEADY):
        add(number)
    ends = time.monotonic() + seconds

    def guarded(name: int) -> None:
        try:
            work(name, index, add, lookup, counts, ends)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(name,)) for name in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        counts("errors")
        print(repr(error))
    return counts


def metadata(number: int) -> list[dict[str, int]]:
    return [{"n": number, "odd": number % 2}]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    sys.setswitchinterval(1e-6)
    index = lw.Index(EUCLIDEAN)
    model = lw.SimilarityModel(nn.Sequential(nn.Identity()), distance=EUCLIDEAN)
    model.encoder.train()  # so that every call has to switch, and to switch back

    def add_to_index(number: int) -> None:
        index.add(
            row(number), ids=[f"i{number}"], labels=[number * TURNS], metadata=metadata(number)
        )

    def add_to_model(number: int) -> None:
        model.add(row(number), ids=[f"i{number}"], metadata=metadata(number))
        model.index.relabel([f"i{number}"], [number * TURNS])

    def lookup(items: torch.Tensor, *, k: int, where: object) -> object:
        return model.lookup(items, k=k, where=where)

    rows = {
        "index": run(index, add_to_index, index.lookup, options.seconds / 2),
        "model": run(model.index, add_to_model, lookup, options.seconds / 2),
    }
    if not all(module.training for module in model.encoder.modules()):
        rows["model"]("errors")
    names = ["lookups", "rows", "added", "removed", "relabeled", "mixed", "lost", "errors"]
    print("| on | " + " | ".join(names) + " |")
    print("|---" * (1 + len(names)) + "|")
    for name, counts in rows.items():
        print(f"| {name} | " + " | ".join(str(counts.counted[n]) for n in names) + " |")
    failed = sum(c.counted[n] for c in rows.values() for n in ("mixed", "lost", "errors"))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
