"""Adaptive precision: which operations must be wider so that a file keeps its accuracy.

The quantization errors of separate operations reach the outputs nearly independently, so their
noise powers nearly add. Each operation (or, in large models, each run of neighbours) is quantized
alone once and the noise at the outputs is measured; the loudest are widened until the goal is
met, and then as many as possible are put back. Every decision is checked on the real runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

Trial = Callable[[dict[str, str]], float]


@dataclass
class Search:
    """What was tried and what came of it.

    Attributes:
        trial: Builds and runs a plan, gives the SNR in dB of its worst output; -inf for a plan
            that cannot be built or run.
        goal: The SNR to reach.
        most: How many operations or groups are measured alone.
        alone: SNR in dB of the model with only this item narrow.
        tries: How many plans were run.
    """

    trial: Trial
    goal: float
    most: int = 64
    alone: dict[str, float] = field(default_factory=dict)
    tries: int = 0

    def run(self, plan: dict[str, str]) -> float:
        self.tries += 1
        return self.trial(plan)

    def widen(self, plan: dict[str, str], wider: dict[str, str], hints: list[str]) -> dict | None:
        """A plan that reaches the goal with few items of `plan` replaced by those of `wider`.

        Args:
            plan: Narrow precision of every item.
            wider: The precision that each item may get instead.
            hints: Items that are the usual culprits, tried first.

        Returns:
            The plan, or None where even all of `wider` does not reach the goal.
        """
        hints = [h for h in hints if h in wider]
        if hints and self.run(plan | {h: wider[h] for h in hints}) >= self.goal:
            return self._put_back(plan, wider, hints)
        if self.run(plan | wider) < self.goal:
            return None
        groups = self._measure(plan, wider)
        chosen = self._loudest(plan, wider, groups)
        return self._put_back(plan, wider, chosen)

    def _measure(self, plan: dict[str, str], wider: dict[str, str]) -> list[list[str]]:
        """Groups of items, loudest first."""
        items = list(wider)
        size = math.ceil(len(items) / self.most)
        groups = [items[i:i + size] for i in range(0, len(items), size)]
        noise = []
        for group in groups:
            found = self.run(plan | {i: wider[i] for i in items if i not in set(group)})
            self.alone.update(dict.fromkeys(group, found))
            noise.append(found)
        return [group for _, group in sorted(zip(noise, groups, strict=True), key=lambda p: p[0])]

    def _loudest(self, plan: dict, wider: dict, groups: list[list[str]]) -> list[str]:
        """As few of the loudest groups as reach the goal, their items loudest first."""
        def flat(count):
            return [item for group in groups[:count] for item in group]

        left = [10 ** (-self.alone[g[0]] / 10) for g in groups]
        count = next((k for k in range(1, len(groups))
                      if -10 * math.log10(max(math.fsum(left[k:]), 1e-30)) >= self.goal),
                     len(groups))
        def enough(count):
            return self.run(plan | {i: wider[i] for i in flat(count)}) >= self.goal

        low = 0  # not enough for certain
        while count < len(groups) and not enough(count):
            low, count = count, min(len(groups), count + max(1, count // 2))
        while count - low > 1:
            middle = (low + count) // 2
            if enough(middle):
                count = middle
            else:
                low = middle
        return flat(count)

    def _put_back(self, plan: dict, wider: dict, chosen: list[str]) -> dict:
        """Narrow again whatever can be, quietest first, halves before single items.

        `plan` itself, with nothing chosen, is known to miss the goal.
        """
        chosen = list(chosen)
        size, tries = max(1, len(chosen) // 2), self.most // 2
        while chosen and tries:
            at = len(chosen)
            while at > 0 and tries:
                part = set(chosen[max(0, at - size):at])
                rest = [i for i in chosen if i not in part]
                tries -= 1
                if rest and self.run(plan | {i: wider[i] for i in rest}) >= self.goal:
                    chosen = rest
                at -= size
            if size == 1:
                break
            size = max(1, size // 2)
        return plan | {i: wider[i] for i in chosen}
