"""`model.match` of one item at a time beside plain PyTorch and FAISS, in turn.

python benchmarks/match.py            a small convolutional encoder, 678 items
python benchmarks/match.py --rules    rule="center" and rule="nearest", 100,000 items
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import torch

import likewise as lw

ROUNDS = 600
CLASSES = 113


def sides() -> dict[str, Callable[[], object]]:
    """The same answer twice: the nearest of 678 items, if it is near enough."""
    torch.manual_seed(0)
    encoder = lw.encoders.ConvEncoder((1, 28, 28)).eval()
    items = torch.randn(678, 1, 28, 28)
    labels = torch.arange(678) % CLASSES
    model = lw.SimilarityModel(encoder)
    model.add(lw.data.ArrayDataset(items, labels))
    known = lw.encode(encoder, items)
    index = faiss.IndexFlatIP(known.shape[1])
    index.add(torch.nn.functional.normalize(known).numpy())
    item = items[:1] + 0.1

    def ours() -> object:
        return model.match(item, threshold=0.3)

    def plain() -> object:
        with torch.inference_mode():
            query = torch.nn.functional.normalize(encoder(item))
        near, rows = index.search(query.numpy(), 1)
        return int(labels[rows[0, 0]]) if 1 - near[0, 0] <= 0.3 else -1

    return {"model.match": ours, "PyTorch and FAISS": plain}


def rules() -> dict[str, Callable[[], object]]:
    """One query among 100,000 items by either rule."""
    torch.manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(100_000, 64))
    model = lw.SimilarityModel(torch.nn.Identity())
    model.index.add(embeddings, labels=torch.arange(100_000) % 1000)
    query = embeddings[:1] + 0.01
    return {
        rule: lambda rule=rule: model.match(query, threshold=0.3, rule=rule)
        for rule in ("center", "nearest")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rules", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    # On one thread, whose processor time other work on the machine adds least to.
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    both = rules() if asked.rules else sides()
    for run in both.values():
        for _ in range(5):
            run()
    taken: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(asked.rounds):
        for name, run in both.items():
            started = time.thread_time()
            run()
            taken[name].append(time.thread_time() - started)
    (ours, theirs) = taken.values()
    for name, seconds in taken.items():
        print(f"{name:20s}{1000 * statistics.median(seconds):8.3f} ms")
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"{'ratio of medians':20s}{statistics.median(ours) / statistics.median(theirs):8.2f}")
    print(f"{'median of ratios':20s}{statistics.median(ratios):8.2f}")


if __name__ == "__main__":
    main()
