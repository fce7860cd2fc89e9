"""Slow loops, written from the definitions, that the library must agree with."""

import hashlib
import json
import math


def positives(labels, a):
    return [i for i in range(len(labels)) if labels[i] == labels[a] and i != a]


def negatives(labels, a):
    return [i for i in range(len(labels)) if labels[i] != labels[a]]


def all_triplets(labels):
    return [
        (a, p, n)
        for a in range(len(labels))
        for p in positives(labels, a)
        for n in negatives(labels, a)
    ]


def batch_hard(distances, labels):
    triplets = []
    for a in range(len(labels)):
        if positives(labels, a) and negatives(labels, a):
            farthest = max(positives(labels, a), key=lambda i: float(distances[a, i]))
            nearest = min(negatives(labels, a), key=lambda i: float(distances[a, i]))
            triplets.append((a, farthest, nearest))
    return triplets


def hardest_negative(distances, labels):
    return [
        (a, p, min(negatives(labels, a), key=lambda i: float(distances[a, i])))
        for a in range(len(labels))
        for p in positives(labels, a)
        if negatives(labels, a)
    ]


def semi_hard(distances, labels):
    triplets = []
    for a in range(len(labels)):
        for p in positives(labels, a):
            farther = [n for n in negatives(labels, a) if distances[a, n] > distances[a, p]]
            if farther:
                triplets.append((a, p, min(farther, key=lambda i: float(distances[a, i]))))
    return triplets


def hard_negative_pairs(distances, labels):
    size = len(labels)
    count = sum(len(positives(labels, a)) for a in range(size))
    ranked = sorted(
        (float(distances[a, n]), a, n) for a in range(size) for n in negatives(labels, a)
    )
    return {(a, n) for _, a, n in ranked[:count]}


def multi_similarity_pairs(distances, labels, epsilon):
    kept_positive, kept_negative = set(), set()
    for a in range(len(labels)):
        ps, ns = positives(labels, a), negatives(labels, a)
        if not ps or not ns:
            continue
        nearest = min(float(distances[a, n]) for n in ns)
        farthest = max(float(distances[a, p]) for p in ps)
        kept_positive |= {(a, p) for p in ps if distances[a, p] > nearest - epsilon}
        kept_negative |= {(a, n) for n in ns if distances[a, n] < farthest + epsilon}
    return kept_positive, kept_negative


def triplet_values(distances, triplets, margin):
    gaps = [float(distances[a, p] - distances[a, n]) for a, p, n in triplets]
    if margin is None:
        return [math.log1p(math.exp(gap)) for gap in gaps]
    return [max(0.0, gap + margin) for gap in gaps]


def contrastive_value(distances, pairs, labels, margin, squared):
    values = []
    for a, b in pairs:
        d = float(distances[a, b])
        value = d if labels[a] == labels[b] else max(0.0, margin - d)
        values.append(value**2 if squared else value)
    return sum(values) / len(values)


def multi_similarity_value(distances, labels, alpha, beta, center, epsilon):
    kept_positive, kept_negative = multi_similarity_pairs(distances, labels, epsilon)
    total = 0.0
    for a in range(len(labels)):
        pull = sum(
            math.exp(alpha * (float(distances[a, p]) - center)) for q, p in kept_positive if q == a
        )
        push = sum(
            math.exp(beta * (center - float(distances[a, n]))) for q, n in kept_negative if q == a
        )
        total += math.log1p(pull) / alpha + math.log1p(push) / beta
    return total / len(labels)


def ranking_scores(hits, ks):
    """Every score of one query by name, from whether the item at each rank is relevant."""
    r = sum(hits)
    if not r:
        return {}

    def average(n):
        return sum(sum(hits[: i + 1]) / (i + 1) for i in range(n) if hits[i]) / min(n, r)

    def gain(ranking):
        return sum(1 / math.log2(i + 2) for i, hit in enumerate(ranking) if hit)

    rank = hits.index(True) + 1
    scores = {
        "precision_at_1": float(hits[0]),
        "r_precision": sum(hits[:r]) / r,
        "map_at_r": average(r),
        "reciprocal_rank": 1 / rank,
        "rank": rank,
    }
    for k in ks:
        scores[f"recall_at_{k}"] = float(any(hits[:k]))
        scores[f"share_found_at_{k}"] = sum(hits[:k]) / r
        scores[f"precision_at_{k}"] = sum(hits[:k]) / k
        scores[f"map_at_{k}"] = average(k)
        scores[f"ndcg_at_{k}"] = gain(hits[:k]) / gain(sorted(hits, reverse=True)[:k])
    return scores


def seal_model(folder, manifest):
    """Write a model's manifest with a fresh checksum, as whoever forges one would."""
    manifest = {name: value for name, value in manifest.items() if name != "checksum"}
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps({"checksum": checksum, **manifest}))
