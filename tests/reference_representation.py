"""Reference implementation of the losses on embeddings, as plain loops over floats.

As in `tests/reference_losses.py`, it follows the formulas and ignores speed. Each
function takes embeddings `(batch, rows, width)`, a mask and weights `(batch, rows)`,
and returns one float for each list.
"""

from itertools import permutations
from math import exp, log, sqrt

import numpy as np


def hint_mse(teacher, student, mask, weight):
    losses = []
    for t, s, w in _lists(teacher, student, mask, weight):
        gaps = [
            sum((x - y) ** 2 for x, y in zip(s_i, t_i, strict=True)) / len(t_i)
            for t_i, s_i in zip(t, s, strict=True)
        ]
        losses.append(_mean(gaps, w))
    return losses


def relational_distance(teacher, student, mask, weight):
    losses = []
    for t, s, w in _lists(teacher, student, mask, weight):
        pairs = list(permutations(range(len(t)), 2))
        weights = [w[i] * w[j] for i, j in pairs]
        relative = []
        for rows in (t, s):
            distances = [_norm(_less(rows[i], rows[j])) for i, j in pairs]
            mean = _mean(distances, weights)
            relative.append([d / mean if mean else 0.0 for d in distances])
        gaps = [_huber(x - y) for x, y in zip(*relative, strict=True)]
        losses.append(_mean(gaps, weights))
    return losses


def relational_angle(teacher, student, mask, weight):
    losses = []
    for t, s, w in _lists(teacher, student, mask, weight):
        triplets = list(permutations(range(len(t)), 3))
        weights = [w[i] * w[j] * w[k] for i, j, k in triplets]
        gaps = [
            _huber(
                _cosine(_less(t[i], t[j]), _less(t[k], t[j]))
                - _cosine(_less(s[i], s[j]), _less(s[k], s[j]))
            )
            for i, j, k in triplets
        ]
        losses.append(_mean(gaps, weights))
    return losses


def contrastive_alignment(teacher, student, mask, weight, temperature=0.1):
    losses = []
    for t, s, w in _lists(teacher, student, mask, weight):
        present = [k for k in range(len(t)) if w[k] > 0.0]
        terms = []
        for i in range(len(t)):
            powers = {k: exp(_cosine(s[i], t[k]) / temperature) for k in present}
            terms.append(-log(powers[i] / sum(powers.values())) if w[i] else 0.0)
        losses.append(_mean(terms, w))
    return losses


def _lists(teacher, student, mask, weight):
    """The real rows of each list: teacher, student and weights."""
    for t, s, m, w in zip(
        np.asarray(teacher, "float64"),
        np.asarray(student, "float64"),
        mask,
        np.asarray(weight, "float64"),
        strict=True,
    ):
        yield t[m].tolist(), s[m].tolist(), w[m].tolist()


def _mean(values, weights):
    total = sum(weights)
    pairs = zip(values, weights, strict=True)
    return sum(v * w for v, w in pairs) / total if total else 0.0


def _less(x, y):
    return [a - b for a, b in zip(x, y, strict=True)]


def _norm(x):
    return sqrt(sum(a * a for a in x))


def _cosine(x, y):
    lengths = _norm(x) * _norm(y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / lengths if lengths else 0.0


def _huber(gap):
    return gap * gap / 2 if abs(gap) <= 1 else abs(gap) - 0.5
