"""Continuous LexRank: which sentences stand for a text (Erkan and Radev 2004)."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from operator import sub

__all__ = ["most_central", "tf_idf"]

_DAMPING = 0.85  # Mihalcea and Tarau 2004
_MAX_STEPS = 30  # 0.85 ** 30 < 0.01
_SETTLED = 1e-4  # change of a rank, relative to the mean rank, that no longer matters
_SAME_CONTENT = 0.6  # cosine beyond which a second sentence mostly repeats the first


def tf_idf(bags: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """Weigh the terms of sentences by frequency and rarity.

    Args:
        bags: The terms of each sentence.

    Returns:
        A weight by term for each sentence, of unit length: a dot product is a cosine.
    """
    sentences_with = Counter(term for bag in bags for term in set(bag))
    vectors: list[dict[str, float]] = []
    for bag in bags:
        weights = {
            term: count * math.log(1 + len(bags) / sentences_with[term])
            for term, count in Counter(bag).items()
        }
        length = math.hypot(*weights.values())
        vectors.append({term: weight / length for term, weight in weights.items()})
    return vectors


def _dot(left: dict[str, float], right: dict[str, float]) -> float:
    return sum(weight * right.get(term, 0.0) for term, weight in left.items())


def _pool(vectors: Sequence[dict[str, float]], shares: Sequence[float]) -> dict[str, float]:
    pooled: defaultdict[str, float] = defaultdict(float)
    for vector, share in zip(vectors, shares, strict=True):
        for term, weight in vector.items():
            pooled[term] += share * weight
    return pooled


def _centrality(vectors: Sequence[dict[str, float]]) -> list[float]:
    """Rank sentences by a damped random walk over their cosines.

    The matrix of cosines is the product of the sentence-term matrix with its transpose, so a
    step pools all sentences into one vector and compares each with that: linear in the words,
    where the matrix itself would be quadratic in the sentences.
    """
    totals = _pool(vectors, [1.0] * len(vectors))
    # A sentence is no neighbour of itself; its cosine with itself is 1.
    degrees = [_dot(vector, totals) - 1 for vector in vectors]
    ranks = [1 / len(vectors)] * len(vectors)
    for _ in range(_MAX_STEPS):
        # Rounding leaves an isolated sentence a degree near 0; it passes nothing on.
        shares = [
            rank / degree if degree > 1e-9 else 0.0
            for rank, degree in zip(ranks, degrees, strict=True)
        ]
        pooled = _pool(vectors, shares)
        previous = ranks
        ranks = [
            (1 - _DAMPING) / len(vectors) + _DAMPING * (_dot(vector, pooled) - share)
            for vector, share in zip(vectors, shares, strict=True)
        ]
        if max(map(abs, map(sub, ranks, previous))) < _SETTLED / len(vectors):
            break
    return ranks


def most_central(vectors: Sequence[dict[str, float]], limit: int) -> list[int]:
    """Choose central sentences that do not repeat each other.

    One that mostly repeats a chosen one is subsumed by it (Radev, Jing and Budzikowska 2000).
    Quadratic in the limit, though not in the text.

    Args:
        vectors: Sentences as `tf_idf` weighs them.
        limit: How many to choose at most.

    Returns:
        Their indices, ascending.
    """
    ranks = _centrality(vectors)
    chosen: list[int] = []
    for i in sorted(range(len(vectors)), key=lambda i: -ranks[i]):
        if len(chosen) == limit:
            break
        if all(_dot(vectors[i], vectors[j]) < _SAME_CONTENT for j in chosen):
            chosen.append(i)
    return sorted(chosen)
