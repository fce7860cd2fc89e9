"""What each of two processes does for `test_processes.py`; tells what came, as JSON, in a file.

python two_processes.py FOLDER RANK
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import likewise as lw
from likewise import losses, miners
from likewise._shares import sharing
from likewise.training.batch_norm import synchronized
from likewise.training.gathering import Parted, share
from likewise.training.processes import Processes, share_of

CLASSES, WIDTH = 5, 4
SIZES = (7, 5, 4, 3, 2)
UNBATCHED = {"classes_per_batch": None, "items_per_class": None, "batches": None}


class Net(nn.Module):
    """A small network with batch normalization, in float64."""

    def __init__(self, width=WIDTH):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 8, dtype=torch.float64),
            nn.BatchNorm1d(8, dtype=torch.float64),
            nn.Tanh(),
            nn.Linear(8, WIDTH, dtype=torch.float64),
        )

    def forward(self, items):
        return self.layers(items.flatten(1).double())


class Widened(nn.Module):
    """Items in float64."""

    def forward(self, items):
        return items.double()


def points():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(torch.tensor(SIZES))
    return lw.data.ArrayDataset(torch.randn(len(labels), WIDTH, generator=rng), labels)


def images():
    rng = torch.Generator().manual_seed(1)
    return lw.data.ArrayDataset(torch.rand(20, 1, 6, 6, generator=rng), torch.arange(20) % 4)


def every_loss():
    memory = {"embedding_dim": WIDTH, "size": 15}
    return {
        "triplet": losses.TripletLoss(margin=0.5),
        "triplet, semi-hard": losses.TripletLoss(margin=2.0, miner=miners.all_semi_hard(2.0)),
        "triplet, angular": losses.TripletLoss(margin=0.5, miner=miners.angular(10.0)),
        "triplet, swap": losses.TripletLoss(margin=0.5, swap=True),
        "triplet, random": losses.TripletLoss(margin=0.5, miner=miners.random_hard(0.5)),
        "contrastive": losses.ContrastiveLoss(margin=1.5),
        "contrastive, kinds": losses.ContrastiveLoss(margin=1.5, average="kind"),
        "contrastive, hard": losses.ContrastiveLoss(miner=miners.hard_negative_pairs),
        "SNR": losses.SNRContrastiveLoss(mean_weight=0.1),
        "multi-similarity": losses.MultiSimilarityLoss(beta=10.0),
        "circle": losses.CircleLoss(gamma=4.0),
        "NT-Xent": losses.NTXentLoss(),
        "supervised contrastive": losses.SupervisedContrastiveLoss(),
        "soft nearest neighbor": losses.SoftNearestNeighborLoss(),
        "lifted": losses.LiftedStructureLoss(),
        "generalized lifted": losses.GeneralizedLiftedLoss(),
        "N-pairs": losses.NPairsLoss(),
        "angular": losses.AngularLoss(),
        "ranked list": losses.RankedListLoss(),
        "fast AP": losses.FastAPLoss(),
        "smooth AP": losses.SmoothAPLoss(temperature=0.1),
        "recall at k": losses.RecallAtKLoss(ks=(1, 2), temperature=0.1),
        "sigmoid": losses.SigmoidPairsLoss(),
        "threshold": losses.ThresholdLoss(),
        "threshold consistency": losses.ThresholdConsistencyLoss(),
        "tuplet margin": losses.TupletMarginLoss(scale=8.0),
        "intra-pair variance": losses.IntraPairVarianceLoss(),
        "margin": losses.MarginLoss(nu=0.1),
        "softmax": losses.SoftmaxLoss(WIDTH, CLASSES),
        "normalized softmax, share": losses.NormalizedSoftmaxLoss(WIDTH, 60, class_share=0.5),
        "ArcFace": losses.ArcFaceLoss(WIDTH, CLASSES),
        "proxy NCA": losses.ProxyNCALoss(WIDTH, CLASSES, own_below=False),
        "proxy anchor": losses.ProxyAnchorLoss(WIDTH, CLASSES),
        "soft triple": losses.SoftTripleLoss(WIDTH, CLASSES, centers_per_class=2),
        "class weights": losses.ClassWeighted(
            losses.SoftmaxLoss(WIDTH, CLASSES), [1.0, 5, 2, 3, 4]
        ),
        "class by class": losses.ClassWeighted(losses.TripletLoss(), [1.0, 5, 2, 3, 4]),
        "sum": losses.Sum(losses.TripletLoss(), (0.5, losses.LiftedStructureLoss())),
        "Matryoshka": losses.MatryoshkaLoss(losses.TripletLoss(margin=0.5), (4, 2)),
        "memory": losses.CrossBatchMemory(losses.ContrastiveLoss(margin=1.5), **memory),
        "memory, together": losses.CrossBatchMemory(
            losses.TripletLoss(margin=0.5), together=True, **memory
        ),
        "memory, copies": losses.CrossBatchMemory(losses.NTXentLoss(), copies=True, **memory),
        "unknown to us": Unknown(),
    }


def of_views():
    """Losses of two views of each item, and the layers behind the embeddings that belong to one."""

    def layers():
        made = (nn.Linear(WIDTH, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, WIDTH))
        return nn.Sequential(*made).double()

    return {
        "SimCLR": losses.OnViews(losses.SimCLRLoss(), projector=layers()),
        "SimSiam": losses.OnViews(losses.SimSiamLoss(layers()), projector=layers()),
        "VICReg": losses.OnViews(losses.VICRegLoss(), projector=layers()),
        "Barlow twins": losses.OnViews(losses.BarlowTwinsLoss()),
        "NT-Xent of views": losses.NTXentLoss(),
        "N-pairs of views": losses.NPairsLoss(),
        "memory of views": losses.CrossBatchMemory(
            losses.NTXentLoss(), embedding_dim=WIDTH, size=25
        ),
    }


def of_towers():
    """Losses of queries and keys."""
    return {
        "multiple negatives": losses.MultipleNegativesLoss(),
        "multiple negatives, both ways": losses.MultipleNegativesLoss(symmetric=True),
        "sigmoid pairs": losses.SigmoidPairsLoss(),
        "Matryoshka, both ways": losses.MatryoshkaLoss(
            losses.MultipleNegativesLoss(symmetric=True), (4, 2)
        ),
        "lifted of towers": losses.LiftedStructureLoss(),
    }


class Unknown(nn.Module):
    """A loss that somebody wrote, which says nothing of rows."""

    def forward(self, embeddings, labels):
        return (embeddings[labels == 0].mean(0) - embeddings[labels == 1].mean(0)).norm()


def apart(loss, processes, whole, labels, *, sides=1, views=1, ids=None):
    """How far value and gradients of the parts are from those of the whole.

    Args:
        whole: Embeddings of each view, or of queries and keys, one after the other.
        sides: 2 for queries and keys.
    """
    size = len(labels)
    rows = share_of(size, processes)
    counts = [row.stop - row.start for row in (share_of(size, each) for each in BOTH)]
    options = {"ids": ids} if getattr(loss, "takes_ids", False) else {}
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    weights = list(loss.parameters())

    def value_of(parts, codes, named, call):
        if sides == 2:
            return call(parts[0], codes, parts[1], codes)
        named = {name: each.repeat(views) for name, each in named.items()}
        return call(torch.cat(parts), codes.repeat(views), **named)

    leaves = [each.clone().requires_grad_() for each in whole]
    torch.manual_seed(5)
    expected = value_of(leaves, labels, options, loss)
    expected.backward()
    wanted = [*(leaf.grad[rows] for leaf in leaves), *(each.grad for each in weights)]
    after = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.load_state_dict(before)
    loss.zero_grad()
    mine = [each[rows].clone().requires_grad_() for each in whole]
    torch.manual_seed(5)
    with synchronized(nn.Identity(), loss, processes), sharing(share(processes, counts, views)):
        here = {name: each[rows] for name, each in options.items()}
        value = value_of(mine, labels[rows], here, Parted(loss))
    value.backward()
    processes.add_gradients(weights)
    found = [*(each.grad for each in mine), *(each.grad for each in weights)]
    differences = [float((processes.add(value.detach()) - expected.detach()).abs())]
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            differences.append(float((ours - theirs).abs().max()))
    for name, now in loss.state_dict().items():
        differences.append(float((now.double() - after[name].double()).abs().max()))
    loss.zero_grad()
    assert float(expected.detach()) != 0 or isinstance(loss, losses.CrossBatchMemory)
    return max(differences)


class Side:
    """What `share_of` asks of processes."""

    def __init__(self, rank):
        self.rank, self.count = rank, 2


BOTH = (Side(0), Side(1))


def of_parts(processes):
    """By the name of a loss, how far its parts are from it, twice in a row."""
    told = {}
    torch.manual_seed(1)  # for centers
    kinds = [
        *((name, loss, {}) for name, loss in every_loss().items()),
        *((name, loss, {"views": 2}) for name, loss in of_views().items()),
        *((name, loss, {"sides": 2}) for name, loss in of_towers().items()),
    ]
    for name, loss, kind in kinds:
        loss.double()
        several = bool(kind)
        for unlabeled in (False, True)[: 1 if several or name == "unknown to us" else 2]:
            found = []
            for step in range(2):
                rng = torch.Generator().manual_seed(11 + step)
                count = 21 if name != "unknown to us" else 20
                whole = torch.randn(2, count, WIDTH, generator=rng, dtype=torch.float64)
                labels = torch.arange(count) if several else torch.arange(count) % CLASSES
                if unlabeled:
                    labels[[3, 17]] = -1
                ids = torch.arange(count) + 100 * step
                whole = list(whole) if several else [whole[0]]
                found.append(apart(loss, processes, whole, labels, ids=ids, **kind))
            told[f"{name}{', unlabeled' * unlabeled}"] = max(found)
    return told


def trained(loss, source, encoder=None, width=WIDTH, **told):
    torch.manual_seed(7)
    encoder = Net(width) if encoder is None else encoder
    arguments = {"epochs": 1, "batches": 3, "classes_per_batch": 4, "items_per_class": 4}
    if isinstance(source, lw.data.ViewDataset):
        sampler = lw.samplers.ShuffledBatchSampler(len(source), batch_size=9, batches=3)
        arguments = {"epochs": 1, "batch_sampler": sampler}
    history = lw.fit(
        encoder,
        loss.double(),
        source,
        **{**arguments, **told},
        weight_decay=0.1,
        learning_rate=0.01,
        schedule=lw.training.constant,
        progress=False,
        device="cpu",
    )
    state = {**encoder.state_dict(), **{f"loss.{k}": v for k, v in loss.state_dict().items()}}
    return {name: value.tolist() for name, value in state.items()}, history.records


def trainings():
    """Some trainings; on one process the same numbers must come."""
    changes = lw.augment.Augment(noise=0.2)
    torch.manual_seed(3)
    proxies = losses.Sum(losses.ProxyAnchorLoss(WIDTH, CLASSES), losses.TripletLoss())
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), embedding_dim=WIDTH, size=20)
    memory_of_views = losses.CrossBatchMemory(losses.NTXentLoss(), embedding_dim=WIDTH, size=30)
    torch.manual_seed(4)
    plain = nn.Sequential(Widened(), nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH)).double()
    return {
        "proxies": lambda: trained(proxies, points()),
        "memory": lambda: trained(memory, points(), epochs=2),
        "views": lambda: trained(
            memory_of_views, lw.data.ViewDataset(images()), width=36, augment=changes
        ),
        "chunks": lambda: trained(losses.NTXentLoss(), points(), plain, epochs=2, chunk=3),
        "stream": lambda: trained(losses.TripletLoss(), streamed(), epochs=2, **UNBATCHED),
    }


def outcome(act):
    """What came of it, or the error in a line."""
    try:
        return act()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"


class Broken(lw.data.ArrayDataset):
    """Items of which one cannot be read."""

    def __getitems__(self, indices):
        if 20 in indices:
            raise OSError("item 20 is gone")
        return super().__getitems__(indices)


class Failing(Net):
    """An encoder that fails on one process only."""

    def forward(self, items):
        if self.training and not lw.training.is_first_process():
            raise MemoryError("no memory left here")
        return super().forward(items)


class Overflowing(Net):
    """An encoder of which a buffer overflows on one process only."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(()))

    def forward(self, items):
        if self.training and not lw.training.is_first_process():
            self.total.fill_(torch.inf)
        return super().forward(items)


def streamed(order=None):
    """The points as a stream, which shuffles by torch's own random numbers or comes in an order."""
    source = points()

    class Shuffled:
        class_names = tuple(f"class {code}" for code in range(CLASSES))

        def __iter__(self):
            rows = torch.randperm(len(source)) if order is None else torch.tensor(order)
            for row in rows.tolist():
                item, label = source[row]
                yield {"x": item, "label": label}

    stream = lw.data.Stream(Shuffled(), item="x")
    return lw.data.BalancedStream(
        stream, classes_per_batch=3, items_per_class=3, batches=4, buffer=12
    )


class Batches(torch.utils.data.Sampler):
    """The batches that it was given."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def main():
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    processes = Processes()
    told = {"parts": {}, "trainings": {}, "outcomes": {}}
    told["parts"] = of_parts(processes)
    processes.close()
    for name, train in trainings().items():
        told["trainings"][name] = train()
    loss, source = losses.TripletLoss(), points()
    calls = []

    def look(record, encoder):
        calls.append(record["epoch"])
        record["seen_here"] = 0.5
        return record["epoch"] == 2

    def refuse(record, encoder):
        raise lw.InputError("must be better.", argument="by")

    def interrupt(record, encoder):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    kept = lw.training.KeepBest("loss", folder=folder / "best")

    def stopped_early():
        torch.manual_seed(0)
        encoder = Net()
        _, records = trained(loss, source, encoder, epochs=5, callbacks=[look, kept])
        kept.restore(encoder)
        return [len(calls), len(records), records[1]["seen_here"], kept.epoch is not None]

    own = Batches([[0, 1, 7, 8, rank]])
    small = Batches([[0, 1, 7, 8], [3]])
    broken = Broken(lw.data.items(source), source.labels)
    memory = losses.CrossBatchMemory(losses.ContrastiveLoss(), embedding_dim=WIDTH, size=20)
    where = folder / "checkpoint"
    noise = [nn.Sequential(Net(), nn.Dropout(0.5)).double() for _ in range(2)]
    acts = {
        "stopped early": stopped_early,
        "refused": lambda: trained(loss, source, callbacks=[refuse]),
        "interrupted": lambda: trained(
            memory, source, epochs=2, callbacks=[interrupt], checkpoint=where
        ),
        "other seeds": lambda: trained(loss, source, seed=rank),
        "other batches": lambda: trained(loss, source, batch_sampler=own, **UNBATCHED),
        "other streams": lambda: trained(
            loss, streamed(range(21)[:: 1 - 2 * rank]), epochs=1, **UNBATCHED
        ),
        "small batches": lambda: trained(loss, source, batch_sampler=small, **UNBATCHED),
        "unread": lambda: trained(
            loss, broken, batch_sampler=Batches([[0, 1, 7, 20]]), **UNBATCHED
        ),
        "dropout": lambda: trained(loss, source, noise[0])[0],
        "overflowed": lambda: trained(loss, source, Overflowing()),
        "gone": lambda: trained(loss, source, Failing()),
        "again": lambda: trained(loss, source),
    }
    for name, act in acts.items():
        told["outcomes"][name] = outcome(act)
    (folder / f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
