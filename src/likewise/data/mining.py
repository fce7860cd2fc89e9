"""Hard pairs: those that an encoder gets wrong first."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise._checks import (
    as_tensors,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
    check_positive,
)
from likewise.data.pairs import count_kinds
from likewise.distances import EUCLIDEAN, Distance
from likewise.masks import UNLABELED

_ENTRIES = 2**22  # of the distance matrix at a time


@torch.no_grad()
def hard_pairs(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    per_item: float = 1.0,
    distance: Distance = EUCLIDEAN,
    pool: int | None = None,
    seed: int = 0,
) -> tuple[Int[Tensor, "p 2"], Bool[Tensor, " p"]]:
    """Pairs, and whether they are the same: half far ones of one class, half near ones of two.

    There are round(per_item · n) pairs, less one if that is odd, or as many as can be had with
    equal halves. Every item proposes its farthest item of its own class and its nearest of
    another, then its second, and so on, until there are enough; of the last round some are
    drawn. So hard pairs are spread over the items. No pair comes twice, the order is random.

    The very hardest pairs are often wrong labels. With `pool` an item proposes its `pool`
    hardest partners, or more if that is not enough, and pairs are drawn from these alike.

    Distances are computed for some rows at a time; memory is O(n d + p).

    Args:
        embeddings: Embeddings of all items, from the encoder whose mistakes are looked for, (n, d).
        labels: codes, (n,); items labeled -1 (unlabeled) are in no pair, and n does not count them.
        per_item: number of pairs per item.
        distance: how embeddings are compared.
        pool: how many hardest partners of each item are drawn from; only the hardest if None.
        seed: same seed, same pairs.

    Returns:
        Positions (p, 2) and truth (p,), on the CPU, as `GivenPairs` takes them.

    Raises:
        InputTypeError: embeddings or labels are of another kind.
        InputError: there is only one class, no class has two items, `per_item` gives fewer than
            two pairs, or embeddings are not finite.

    Example:
        >>> from likewise.data import ArrayDataset, GivenPairs
        >>> points, labels = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), [0, 0, 1, 1]
        >>> data = ArrayDataset(points, labels)
        >>> pairs = GivenPairs(data, *hard_pairs(points, data.labels, per_item=0.5))
        >>> pairs.pairs[~pairs.same].sort().values  # of the four, the nearest two
        tensor([[1, 2]])
    """
    embeddings, labels = as_tensors(embeddings=embeddings, labels=labels)
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    check_labels(labels, len(embeddings))
    check_positive("per_item", per_item)
    check_count("seed", seed, least=0)
    if pool is not None:
        check_count("pool", pool)
    labels = labels.to(embeddings.device)
    (labeled,) = torch.where(labels != UNLABELED)
    if len(labeled) < len(labels):
        embeddings, labels = embeddings[labeled], labels[labeled]
    _, codes, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    count, same_total, different_total = count_kinds(codes.cpu().numpy(), per_item)
    half = min(count // 2, same_total, different_total)
    rng = np.random.default_rng(seed)
    chosen = []
    for pairs, rank in _proposals(embeddings, codes, sizes, distance, half, pool or 1):
        # A pair that both its items propose counts by the better of the two ranks.
        order = np.lexsort((rng.random(len(rank)), np.where(rank < (pool or 0), 0, rank)))
        _, first = np.unique(pairs[order] @ [len(codes), 1], return_index=True)
        chosen.append(pairs[order][np.sort(first)[:half]])
    mixed = rng.permutation(2 * half)
    pairs = rng.permuted(np.concatenate(chosen), axis=1)[mixed]
    return labeled.cpu()[torch.from_numpy(pairs)], torch.from_numpy(mixed < half)


def _proposals(
    embeddings: Tensor,
    codes: Int[Tensor, " n"],
    sizes: Int[Tensor, " c"],
    distance: Distance,
    half: int,
    least: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For the same and for the different: pairs (p, 2), the smaller position first, and ranks.

    Ranks (p,) tell in which round an item proposes the pair; there are `least` at least.
    """
    n = len(codes)
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
    partners = [sizes[codes] - 1, n - sizes[codes]]
    rounds = [min(max(_rounds(most, half), least), int(most.max())) for most in partners]
    for rows in torch.split(torch.arange(n, device=codes.device), max(1, _ENTRIES // n)):
        distances = distance.matrix(embeddings[rows], embeddings)
        same = codes[rows, None] == codes
        for kind in (0, 1):
            wanted, worst = (same, -torch.inf) if kind == 0 else (~same, torch.inf)
            ranked = distances.masked_fill(~wanted, worst)
            ranked[torch.arange(len(rows), device=rows.device), rows] = worst  # the item itself
            hardest = ranked.topk(rounds[kind], largest=kind == 0).indices
            rank = torch.arange(rounds[kind], device=rows.device).expand_as(hardest)
            keep = rank < partners[kind][rows, None]
            pairs = torch.stack([rows[:, None].expand_as(hardest), hardest], dim=-1)[keep]
            found[kind].append((pairs.sort(dim=1).values.cpu().numpy(), rank[keep].cpu().numpy()))
    return [
        (np.concatenate([pairs for pairs, _ in parts]), np.concatenate([rank for _, rank in parts]))
        for parts in found
    ]


def _rounds(partners: Int[Tensor, " n"], half: int) -> int:
    """As many proposals of each item as make `half` different pairs, whoever proposes whom.

    A pair is proposed twice at most, so twice as many proposals are enough.
    """
    low, high = 1, int(partners.max())
    while low < high:
        middle = (low + high) // 2
        if int(partners.clamp(max=middle).sum()) >= 2 * half:
            high = middle
        else:
            low = middle + 1
    return low
