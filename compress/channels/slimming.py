"""Which channels go: a budget of parameters, multiplications or bytes, spent where it hurts least.

Channels that touch the same weights in the same way form a family: the filters of one convolution,
or of all convolutions that are added to one residual stream. Channels leave a family from the
least important on, in blocks that keep counts even; the next block is always the one that loses
the least importance, as a share of what its family still has, per cost that it saves.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from typing import Any

from .groups import MAKES

SCALE_BYTES = 12  # of a channel in a .tflite: float32 scale and int64 zero point


@dataclass
class Family:
    """Channels that are alike; `gone` of `order` have left.

    Attributes:
        order: The atoms that stand for its channels, the least important first.
        loss: Their importance, in that order.
        touches: `(weight, axis, indices per channel)`.
        per: Channels of a layer that go with each.
        multiple: Counts of channels stay multiples of it.
        weight: Of its loss, beside other families'.
    """

    order: list[int]
    loss: list[float]
    touches: list[tuple[Any, int, int]] = field(repr=False)
    per: int
    multiple: int
    weight: float = 1.0
    gone: int = 0

    def block(self) -> int:
        """How many go next; 0 if none may."""
        left = len(self.order) - self.gone
        for count in range(1, left):
            channels = (left - count) * self.per
            if channels < self.multiple:
                return 0
            if channels % self.multiple == 0:
                return count
        return 0

    def hurt(self, count: int) -> float:
        """Importance of the next `count`, as a share of what is left."""
        rest = math.fsum(self.loss[self.gone:])
        return self.weight * math.fsum(self.loss[self.gone:self.gone + count]) / max(rest, 1e-30)


class Sizes:
    """The shapes of all weights while channels leave, and what they cost in each unit."""

    def __init__(self, graph: Any, model: Any):
        self.weights = list(graph.weights.values())
        self.index = {id(w): i for i, w in enumerate(self.weights)}
        self.now = [list(w.size) for w in self.weights]
        known = {id(w.variable) for w in self.weights}
        self.others = [tuple(v.shape) for v in model.weights if id(v) not in known]

    def cost(self, weight: Any, size: list[int], unit: str) -> int:
        """Of one weight; `bytes` are those of an int8 .tflite, roughly."""
        count = math.prod(size)
        if unit == "macs":
            return weight.macs * count
        if weight.kind.startswith("product"):
            return 0
        if unit == "parameters":
            return count
        if weight.kind in ("gamma", "folded"):
            return 0  # is folded into the convolution
        if weight.kind == "bias":
            return 4 * count
        channels = math.prod(n for a, n in enumerate(size) if weight.roles.get(a) != "in") \
            if weight.roles else size[-1]
        return count + SCALE_BYTES * min(channels, max(size))

    def total(self, unit: str) -> int:
        """Of the whole model."""
        rest = 0 if unit == "macs" else sum(
            math.prod(s) if unit == "parameters" or len(s) > 1 else 4 * math.prod(s)
            for s in self.others)
        return rest + sum(self.cost(w, s, unit)
                          for w, s in zip(self.weights, self.now, strict=True))

    def saved(self, family: Family, count: int, unit: str) -> int:
        """What goes with `count` more channels of a family."""
        before: dict[int, list[int]] = {}
        for weight, axis, each in family.touches:
            i = self.index[id(weight)]
            before.setdefault(i, list(self.now[i]))[axis] -= each * count
        return sum(self.cost(self.weights[i], self.now[i], unit) - self.cost(
            self.weights[i], size, unit) for i, size in before.items())

    def remove(self, family: Family, count: int) -> None:
        for weight, axis, each in family.touches:
            self.now[self.index[id(weight)]][axis] -= each * count
        family.gone += count

    def summary(self) -> dict[str, int]:
        return {unit: self.total(unit) for unit in ("parameters", "macs", "bytes")}


def families(graph: Any, roots: Any, scores: Any, multiple: int, relative: bool) -> list[Family]:
    """The families of a model, those with too few channels left out.

    Args:
        graph: A `channels.Channels`.
        roots: Atom -> the atom that stands for it.
        scores: Importance by atom.
        multiple: Counts of channels stay multiples of it, heads excepted.
        relative: Whether every family matters as much as another whatever its scores.
    """
    import numpy as np

    free = graph.sets()
    touches: dict[int, list] = {root: [] for root in free}
    for weight in graph.weights.values():
        for axis, atoms in weight.labels.items():
            found, counts = np.unique(roots[atoms[atoms >= 0]], return_counts=True)
            for root, count in zip(found.tolist(), counts.tolist(), strict=True):
                if root in touches:
                    touches[root].append((weight, axis, count))
    heads = {r for e in graph.edits.values()
             if e.key in (("num_heads",), ("num_key_value_heads",))
             for r in roots[e.labels].tolist()}
    alike: dict[tuple, list[int]] = {}
    for root, found in touches.items():
        alike.setdefault(tuple((id(w), a, n) for w, a, n in found), []).append(root)
    total = sum(scores[r] for r in free) or 1.0
    made = []
    for members in alike.values():
        order = sorted(members, key=lambda r: (scores[r], r))
        found = touches[order[0]]
        per = max((n for w, a, n in found if w.roles[a] in MAKES and w.kind == "kernel"),
                  default=0)
        if not per:
            continue
        loss = [float(scores[r]) for r in order]
        step = 1 if heads.intersection(members) else multiple
        made.append(Family(order, loss, found, per, step,
                           1.0 if relative else math.fsum(loss) / total))
    return made


def choose(sizes: Sizes, found: list[Family], unit: str, to: float, scope: str) -> bool:
    """Let channels leave until at most `to` of the cost is left; whether that was reached."""
    target = to * sizes.total(unit)
    if scope == "layer":
        return _evenly(sizes, found, unit, target)
    total = sizes.total(unit)
    heap: list[tuple[float, int, int]] = []

    def push(i: int) -> None:
        count = found[i].block()
        saved = sizes.saved(found[i], count, unit) if count else 0
        if saved > 0:
            heapq.heappush(heap, (found[i].hurt(count) / saved, i, found[i].gone))

    for i in range(len(found)):
        push(i)
    while total > target and heap:
        ratio, i, _ = heapq.heappop(heap)
        count = found[i].block()
        saved = sizes.saved(found[i], count, unit)
        if heap and found[i].hurt(count) / max(saved, 1) > heap[0][0] * (1 + 1e-9) \
                and found[i].hurt(count) / max(saved, 1) > ratio * (1 + 1e-9):
            push(i)  # a neighbour has shrunk since, so that it saves less now
            continue
        if total - saved <= target:
            i = _last(sizes, found, [i, *(j for _, j, _ in heap)], unit, total - target)
            count = found[i].block()
            saved = sizes.saved(found[i], count, unit)
        sizes.remove(found[i], count)
        total -= saved
        push(i)
    return total <= target


def _last(sizes: Sizes, found: list[Family], open_: list[int], unit: str, needed: float) -> int:
    """Of the blocks that reach the target alone, the one that hurts least."""
    enough = [i for i in open_ if found[i].block()
              and sizes.saved(found[i], found[i].block(), unit) >= needed]
    return min(enough, key=lambda i: (found[i].hurt(found[i].block()), i))


def _evenly(sizes: Sizes, found: list[Family], unit: str, target: float) -> bool:
    """Every family keeps the same share of its channels, as nearly as even counts allow."""
    total = sizes.total(unit)
    while total > target:
        open_ = [(f, f.block()) for f in found if f.block()]
        open_ = [(f, n) for f, n in open_ if sizes.saved(f, n, unit) > 0]
        if not open_:
            return False
        family, count = max(open_, key=lambda o: (len(o[0].order) - o[0].gone - o[1]) /
                            len(o[0].order))
        total -= sizes.saved(family, count, unit)
        sizes.remove(family, count)
    return True
