"""Few-shot: is a query told its class by one or a few examples of each?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from likewise import _tables, intervals
from likewise._checks import (
    as_tensors,
    check_choice,
    check_count,
    check_embeddings,
    check_finite,
    check_labels,
    check_same_width,
)
from likewise.distances import COSINE, Distance, check_distance
from likewise.errors import InputError
from likewise.evaluation._labeled import kept, labeled
from likewise.evaluation._plain import plain_fields
from likewise.intervals import FEWEST_GROUPS, Estimate

RULES = ("nearest", "center")
_ROWS = 256  # of one side of a matrix; larger ones hold more that no episode asks for


@dataclass(frozen=True, eq=False)
class FewShotResult:
    """How often a query of an episode is given its class.

    Attributes:
        accuracy: share of the queries that are right, as mean over episodes; what its interval
            is of, `evaluate_few_shot` says.
        per_episode: share of the queries of each episode that are right, (e,), float64. Two
            encoders asked with the same labels and seed are asked the same episodes.
        classes: how many classes could be drawn.
        left_out: how many could not, as they or their group are too small.
        unlabeled: how many items had no label.
    """

    accuracy: Estimate
    per_episode: Float[Tensor, " e"]
    classes: int
    left_out: int
    unlabeled: int = 0

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def to_dict(self) -> dict[str, object]:
        """All fields but `per_episode`, ready for JSON."""
        return plain_fields(self, "accuracy", "classes", "left_out", "unlabeled")


@dataclass(frozen=True, eq=False)
class OneShotResult:
    """How often a query of given runs is taken for another class.

    Attributes:
        error_rate: share of all queries that are wrong, with an exact binomial interval that
            takes them as independent: other queries of such runs.
        error_rate_over_runs: the same share, with Student's t over runs, since queries of a run
            share its support: other runs.
        per_run: share of the queries of each run that are wrong, (r,), float64.
        trials: how many queries there are in all.
    """

    error_rate: Estimate
    error_rate_over_runs: Estimate
    per_run: Float[Tensor, " r"]
    trials: int

    __repr__ = _tables.as_text
    _repr_html_ = _tables.as_html

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return plain_fields(self, *self.__dataclass_fields__)


@torch.no_grad()
def evaluate_few_shot(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    ways: int,
    shots: int = 1,
    queries: int = 1,
    episodes: int = 1000,
    distance: Distance = COSINE,
    rule: str = "nearest",
    within: Int[Tensor, " n"] | None = None,
    classes_as_sample: bool = False,
    seed: int = 0,
) -> FewShotResult:
    """How well classes are told apart by a few examples, over random episodes.

    An episode draws `ways` different classes and of each `shots` items as its support and
    `queries` others that are asked about. A query gets the class of its nearest support item,
    or that of the nearest center of the support of a class; of equally near ones, the first.
    With `within`, all classes of an episode are of one group: it is drawn first, each group as
    often as any other. Classes with fewer than shots + queries items and groups with fewer than
    `ways` classes left are not drawn.

    The interval is Student's t over episodes: of new episodes from these classes and items.
    With `classes_as_sample` it is about new classes instead, or with `within` about new groups:
    each is left out in turn with all episodes it is in (jackknife). Simulated with 40 classes
    and 1,000 episodes of 5 ways it held what is true of all classes 96 times in 100, and
    Student's t 17 times; with 20 groups 94 times and 31. With 20 ways of 40 classes it was
    wider than need be, 99 times in 100: what an episode adds by chance counts once for each of
    its classes. More episodes lessen that.

    Args:
        embeddings: all items, (n, d).
        labels: their class codes, (n,); items labeled -1 are left out and counted.
        ways: classes in an episode, at least 2.
        shots: support items of each class.
        queries: items of each class that are asked about.
        episodes: how many.
        distance: what is compared; smaller is closer.
        rule: "nearest", or "center": the mean of a class's support, scaled to length 1 first
            with the cosine distance, as in `matching.class_centers`.
        within: the group of each item, (n,), such as its alphabet; a class is in one group.
        classes_as_sample: an interval for new classes instead of new episodes; with fewer than
            10 classes (groups) there is none.
        seed: Seed of the episodes.

    Raises:
        InputError: for mismatched shapes, NaN, no labeled item, an unknown rule, too few classes
            of enough items, or a class in two groups.

    Source:
        Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, "Matching Networks for One Shot
        Learning", NIPS 2016 (episodes); Snell, Swersky & Zemel, "Prototypical Networks for
        Few-shot Learning", NIPS 2017 (centers). Jackknife: Arvesen, "Jackknifing U-Statistics",
        Annals of Mathematical Statistics 1969.

    Example:
        >>> labels = torch.arange(12).repeat_interleave(5)
        >>> embeddings = torch.eye(12)[labels] + 0.1 * torch.rand(60, 12)
        >>> float(evaluate_few_shot(embeddings, labels, ways=5, shots=2).accuracy)
        1.0
    """
    embeddings, labels, within = as_tensors(embeddings=embeddings, labels=labels, within=within)
    check_embeddings(embeddings)
    check_finite(embeddings, "embeddings")
    has_label = labeled(labels, len(embeddings))
    if within is not None:
        check_labels(within, len(labels), "within")
        (within,) = kept(has_label, within)
    embeddings, labels = kept(has_label, embeddings, labels)
    check_count("ways", ways, least=2)
    for name, count in (("shots", shots), ("queries", queries), ("episodes", episodes)):
        check_count(name, count)
    check_choice("rule", rule, RULES)
    check_distance(distance)
    items = _Items(labels.cpu(), ways, shots + queries, within)
    generator = torch.Generator().manual_seed(seed)
    right, slots = [], []
    for classes, drawn in items.episodes(episodes, shots + queries, generator):
        rows = embeddings[drawn.to(embeddings.device)]  # (e, ways, shots + queries, d)
        support, asked = rows[:, :, :shots], rows[:, :, shots:].flatten(1, 2)
        if rule == "center":
            support = F.normalize(support, dim=-1) if distance is COSINE else support
            support = support.double().mean(dim=2, keepdim=True)
        nearest = _nearest(asked, support.flatten(1, 2), distance)
        way = torch.arange(ways).repeat_interleave(queries)
        right.append((nearest // support.shape[2] == way).double().mean(dim=1))
        slots.append(classes if within is None else items.group[classes[:, :1]])
    per_episode = torch.cat(right)
    if classes_as_sample:
        accuracy = intervals.jackknife(
            lambda keep: float(per_episode[keep].mean()),
            torch.cat(slots),
            fewest=FEWEST_GROUPS,
            within=intervals.A_RATE,
        )
    else:
        accuracy = intervals.mean(per_episode, within=intervals.A_RATE)
    unlabeled = int((~has_label).sum())
    return FewShotResult(accuracy, per_episode, len(items.sizes), items.left_out, unlabeled)


@torch.no_grad()
def evaluate_one_shot_runs(
    support: Float[Tensor, "r w d"],
    queries: Float[Tensor, "r q d"],
    answers: Int[Tensor, "r q"],
    *,
    distance: Distance = COSINE,
) -> OneShotResult:
    """How often a query's nearest support item is not its answer, in runs that are given.

    Of equally near ones the first counts.

    Args:
        support: embeddings of one item per class of each run, (r, w, d).
        queries: embeddings of what is asked about, (r, q, d).
        answers: the position of each query's class in the support of its run, (r, q).
        distance: what is compared; smaller is closer.

    Raises:
        InputError: for shapes that do not agree, NaN, or answers that are no such positions.

    Example:
        >>> support = torch.eye(3)[None]
        >>> queries = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.0, 0.8]]])
        >>> print(evaluate_one_shot_runs(support, queries, torch.tensor([[0, 1]])).error_rate)
        0.500 [0.013, 0.987]
    """
    support, queries, answers = as_tensors(support=support, queries=queries, answers=answers)
    _check_runs(support, queries, answers)
    check_distance(distance)
    chunk = max(1, _ROWS // max(support.shape[1], queries.shape[1]))
    nearest = [
        _nearest(asked, known, distance)
        for asked, known in zip(
            torch.split(queries, chunk), torch.split(support, chunk), strict=True
        )
    ]
    wrong = torch.cat(nearest) != answers.cpu()
    per_run = wrong.double().mean(dim=1)
    return OneShotResult(
        error_rate=intervals.binomial(int(wrong.sum()), wrong.numel()),
        error_rate_over_runs=intervals.mean(per_run, within=intervals.A_RATE),
        per_run=per_run,
        trials=wrong.numel(),
    )


class _Items:
    """Which items can be drawn: those of classes, and in groups, that are large enough."""

    def __init__(self, labels: Tensor, ways: int, per_class: int, within: Tensor | None) -> None:
        codes, number = np.unique(labels.numpy(), return_inverse=True)
        sizes = np.bincount(number)
        group = np.zeros(len(codes), dtype=np.int64)
        if within is not None:
            group = _groups(labels, within, number, len(codes))
        enough = sizes >= per_class
        held = np.bincount(group[enough], minlength=group.max() + 1)
        drawn = enough & (held[group] >= ways)
        if not drawn.any():
            where = " of one group" if within is not None else ""
            raise InputError(
                f"ways must be at most the classes{where} with at least {per_class} items (shots + "
                f"queries), {held.max()}, got {ways}. Ask for fewer ways or shots, or give more "
                "items."
            )
        order = np.argsort(number, kind="stable")  # items by class
        self.items = torch.from_numpy(order)
        self.first = torch.from_numpy((np.cumsum(sizes) - sizes)[drawn])
        self.sizes = torch.from_numpy(sizes[drawn])
        _, numbered = np.unique(group[drawn], return_inverse=True)
        self.group = torch.from_numpy(numbered)
        self.of_group = torch.from_numpy(np.argsort(numbered, kind="stable"))  # classes by group
        self.group_sizes = torch.from_numpy(np.bincount(numbered))
        self.left_out = int((~drawn).sum())
        self.ways = ways

    def episodes(
        self, count: int, per_class: int, generator: torch.Generator
    ) -> Iterator[tuple[Int[Tensor, "e w"], Int[Tensor, "e w k"]]]:
        """Classes, and positions of the items of each, a few episodes at a time."""
        chunk = max(1, _ROWS // (self.ways * per_class))
        groups = torch.randint(len(self.group_sizes), (count,), generator=generator)
        first_class = self.group_sizes.cumsum(0) - self.group_sizes
        places = _distinct(self.group_sizes[groups], self.ways, generator)
        classes = self.of_group[first_class[groups, None] + places]
        for some in torch.split(classes, chunk):
            within_class = _distinct(self.sizes[some], per_class, generator)
            yield some, self.items[self.first[some][..., None] + within_class]


def _distinct(
    below: Int[Tensor, "*n"], count: int, generator: torch.Generator
) -> Int[Tensor, "*n count"]:
    """`count` different numbers from 0 to below - 1, every choice and order equally likely.

    Source:
        Floyd's algorithm, in Bentley, "Programming Pearls: a sample of brilliance", CACM 1987.
    """
    chosen = torch.full((*below.shape, count), -1)
    for i in range(count):
        last = below - count + i
        drawn = torch.rand(below.shape, generator=generator, dtype=torch.float64) * (last + 1)
        number = drawn.long()
        taken = (chosen == number[..., None]).any(dim=-1)
        chosen[..., i] = torch.where(taken, last, number)
    order = torch.rand(chosen.shape, generator=generator).argsort(dim=-1)
    return chosen.gather(-1, order)


def _nearest(
    queries: Float[Tensor, "e q d"], support: Float[Tensor, "e s d"], distance: Distance
) -> Int[Tensor, "e q"]:
    """Of each query, which support item of its episode is nearest; the first in a tie."""
    everything = distance.matrix(queries.flatten(0, 1), support.flatten(0, 1))
    check_finite(everything, "distances")
    episode = torch.arange(len(support))
    of_all = everything.view(*queries.shape[:2], *support.shape[:2])
    return of_all[episode, :, episode].argmin(dim=2).cpu()  # the first of equal ones


def _groups(labels: Tensor, within: Tensor, number: np.ndarray, classes: int) -> np.ndarray:
    """The group of each class, numbered from 0."""
    _, group_of_item = np.unique(within.cpu().numpy(), return_inverse=True)
    group = np.zeros(classes, dtype=np.int64)
    group[number] = group_of_item
    split: Bool[np.ndarray, " n"] = group[number] != group_of_item
    if split.any():
        raise InputError(
            f"within must give all items of a class one group, got several for the class "
            f"{int(labels[int(split.argmax())])}. Give each group classes of its own."
        )
    return group


def _check_runs(support: Tensor, queries: Tensor, answers: Tensor) -> None:
    for name, runs in (("support", support), ("queries", queries)):
        if not isinstance(runs, Tensor) or runs.ndim != 3 or 0 in runs.shape:
            got = tuple(runs.shape) if isinstance(runs, Tensor) else type(runs).__name__
            raise InputError(
                f"{name} must have shape (runs, items, d), none of them 0, got {got}. "
                "Stack the embeddings of each run."
            )
        check_embeddings(runs.flatten(0, 1), name)
        check_finite(runs, name)
    if len(support) != len(queries):
        raise InputError(
            f"queries must be of as many runs as support, {len(support)}, got {len(queries)}."
        )
    check_same_width(support[0], queries[0], ("support", "queries"))
    expected = tuple(queries.shape[:2])
    if not isinstance(answers, Tensor) or tuple(answers.shape) != expected:
        got = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise InputError(
            f"answers must have shape {expected}, one per query, got {got}. Give the position "
            "of each query's class in the support."
        )
    check_labels(answers.flatten(), answers.numel(), "answers")
    if int(answers.min()) < 0 or int(answers.max()) >= support.shape[1]:
        raise InputError(
            f"answers must be positions in the support, 0 to {support.shape[1] - 1}, got "
            f"{int(answers.min())} to {int(answers.max())}."
        )
