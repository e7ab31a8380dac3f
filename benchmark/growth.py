"""Where a file's bytes came from: two lists of tensors, layer by layer. Standard library only.

A tensor is what `tflite.describe` lists: `{"tensor", "layer", "dtype", "shape", "bytes", ...}`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from . import words

REST = "everything else"


def layers(before: list[dict], after: list[dict], sizes: tuple[int, int]) -> list[dict]:
    """What changed its size, the largest change first.

    Args:
        before: The baseline's tensors.
        after: The candidate's.
        sizes: Bytes of both files; what the tensors do not account for (biases, names, the
            graph itself) is one last entry.

    Returns:
        `{"layer", "before", "after", "grew", "what"}` each: bytes of all its tensors, and in words
        what is different about them.
    """
    old, new = _by_layer(before), _by_layer(after)
    found = []
    earlier = renumbered(list(old), list(new))
    for name in [*new, *(n for n in old if n not in new and n not in earlier.values())]:
        kept = old.get(earlier.get(name, name), [])
        was, now = _bytes(kept), _bytes(new.get(name, []))
        what = _what(kept, new.get(name, []))
        if name in earlier and (what or was != now):
            what = f"{earlier[name]} before" + (f"; {what}" if what else "")
        if was != now or what:
            found.append({"layer": name, "before": was, "after": now, "grew": now - was,
                          "what": what})
    rest = tuple(size - _bytes(side) for size, side in zip(sizes, (before, after), strict=True))
    if rest[0] != rest[1]:
        found.append({"layer": REST, "before": rest[0], "after": rest[1],
                      "grew": rest[1] - rest[0], "what": "biases, scales, names and the graph"})
    return sorted(found, key=lambda f: (-abs(f["grew"]), f["layer"]))


def told(entry: dict) -> str:
    """One entry of `layers` in a line."""
    grew = f"{entry['grew']:+,} B".replace("-", "−")
    sizes = f"{entry['before']:,} to {entry['after']:,} B"
    what = f" ({entry['what']})" if entry["what"] else ""
    return words.clean(f"{grew}  {entry['layer']}: {sizes}{what}")


def renumbered(old: list[str], new: list[str]) -> dict[str, str]:
    """Layers that are the same but for Keras's numbering, new name to old one.

    A model that is built a second time in one process has dense_2 where dense was. Names without
    their number have to leave and to come equally often; then they go by their numbers.
    """
    def by_kind(names: list[str], others: list[str]) -> dict[str, list[str]]:
        found = defaultdict(list)
        for name in names:
            if name not in others:
                found[re.sub(r"_\d+$", "", name)].append(name)
        return {k: sorted(v, key=lambda n: (len(n), n)) for k, v in found.items()}

    gone, come = by_kind(old, new), by_kind(new, old)
    return {now: was for kind, names in come.items() if len(names) == len(gone.get(kind, ()))
            for now, was in zip(names, gone[kind], strict=True)}


def _by_layer(tensors: list[dict]) -> dict[str, list[dict]]:
    found = defaultdict(list)
    for tensor in tensors:
        found[tensor["layer"] or tensor["tensor"]].append(tensor)
    return dict(found)


def _bytes(tensors: list[dict]) -> int:
    return sum(t["bytes"] for t in tensors)


def _what(before: list[dict], after: list[dict]) -> str:
    if not before:
        return "new: " + ", ".join(_kind(t) for t in after)
    if not after:
        return "gone"
    changes = [_became(before, after, "dtype", str), _became(before, after, "shape", words.shape)]
    return ", ".join(c for c in changes if c)


def _became(before: list[dict], after: list[dict], field: str, show) -> str:
    """What of one field is different; a layer can have several tensors, mostly unchanged."""
    old, new = (Counter(show(t[field]) for t in side) for side in (before, after))
    was, now = (" and ".join(sorted(c)) for c in (old - new, new - old))
    if was and now:
        return f"{was} became {now}"
    return f"{now} more" if now else f"{was} less" if was else ""


def _kind(tensor: dict) -> str:
    return f"{tensor['dtype']} {words.shape(tensor['shape'])}"
