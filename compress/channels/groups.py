"""Which channels of a Keras 3 model hang together: the ground of structured pruning.

Every producer of channels (the filters of a convolution, the units of a Dense, the heads of an
attention) gets one atom per channel. The atoms travel along the model's graph: an axis of a
tensor, of a weight or of a number in a layer's configuration is labelled with one atom per index,
or -1 where an index can never be removed. Where two tensors are joined index by index (a
residual addition, a shared layer), their atoms are united; atoms that meet what is not understood
are frozen, with the reason. To remove a channel is to remove all indices that its united atoms
label. The dependencies are those of DepGraph (arXiv 2301.12900), found by other means.

What a layer with weights does to labels stands in `rules`; everything else without weights
is tried out (`probe`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FIXED = -1
MAKES, READS = ("out", "both"), ("in", "both")
OUTPUT = "its channels are the model's output"
Labels = dict  # axis of a tensor, the batch being 0 -> int array with one atom per index


class NotUnderstood(Exception):
    """Why labels cannot be followed through a call: all that enter it are frozen."""


class Atoms:
    """Atoms, which are united with, and the first reason why a set of them is frozen."""

    def __init__(self) -> None:
        self.parent: list[int] = []
        self.reason: dict[int, str] = {}

    def new(self, count: int) -> Any:
        """`count` atoms, each on its own; an int array."""
        import numpy as np

        first = len(self.parent)
        self.parent += range(first, first + count)
        return np.arange(first, first + count)

    def find(self, atom: int) -> int:
        """The atom that stands for all that are united with `atom`."""
        root = atom
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[atom] != root:
            self.parent[atom], atom = root, self.parent[atom]
        return root

    def unite(self, first: Any, second: Any, why: str) -> None:
        """Unite two label arrays index by index; what meets `FIXED` is frozen for reason `why`."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if a < 0 or b < 0:
                self.freeze_one(max(a, b), why)
                continue
            a, b = self.find(a), self.find(b)
            if a != b:
                low, high = min(a, b), max(a, b)
                self.parent[high] = low
                if high in self.reason:
                    self.reason.setdefault(low, self.reason.pop(high))

    def freeze(self, labels: Any, why: str, over: bool = False) -> None:
        """Freeze atoms; with `over`, `why` takes the place of earlier reasons."""
        for atom in set(labels.tolist()):
            if over and atom >= 0:
                self.reason.pop(self.find(atom), None)
            self.freeze_one(atom, why)

    def freeze_one(self, atom: int, why: str) -> None:
        if atom >= 0:
            self.reason.setdefault(self.find(atom), why)

    def why(self, atom: int) -> str | None:
        """The reason why `atom` must stay, or None."""
        return self.reason.get(self.find(atom))


@dataclass
class Weight:
    """One variable, or a product of two activations, whose axes shrink with channels.

    Attributes:
        op: Its layer.
        variable: The Keras variable; None for a product such as attention's scores.
        size: Its shape.
        labels: Axis -> atoms.
        roles: Axis -> `out` (makes the channels), `own` (has one value per channel, as a
            normalization does), `in` (reads them) or `both`, of a tied embedding.
        macs: Multiplications per element, in one sample.
        kind: `kernel` or `bias`; `gamma` and `folded` of a BatchNormalization; `norm` of other
            normalizations and slopes; `product`.
        rescale: Atoms by whose count's square root the values grow as it falls.
    """

    op: Any
    variable: Any = field(repr=False)
    size: tuple[int, ...]
    kind: str
    labels: Labels = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    macs: int = 0
    rescale: Any = None

    @property
    def layer(self) -> str:
        return path_of(self.op)


@dataclass(frozen=True)
class Edit:
    """A number in the configuration of `op` that is the count of `labels`.

    `key` leads to it: a name, or a name and a position in its list; `per` divides the count.
    """

    op: Any
    key: tuple
    labels: Any
    per: int = 1


@dataclass(frozen=True)
class Call:
    """One call of an operation, with shapes whose free dimensions are None.

    Attributes:
        op: The layer or operation.
        shapes: Of its tensor inputs, in their order.
        dtypes: Of the same.
        results: Shapes of its outputs.
        fill: Tensors in the inputs' order -> `(args, kwargs)` of the call.
        where: For each input the place in the arguments, a name or a position.
        times: How often it is made for one call, as a TimeDistributed does.
    """

    op: Any
    shapes: tuple[tuple, ...]
    dtypes: tuple[str, ...]
    results: tuple[tuple, ...]
    fill: Callable[[list], tuple[tuple, dict]] = field(repr=False)
    where: tuple = ()
    times: int = 1


class Channels:
    """The labels of a model's tensors, weights and configurations.

    Attributes:
        atoms: The union-find over all channels.
        weights: By identity of the variable, in the order met.
        edits: By operation and key.
        opaque: Reason by path of layers that were not understood.
        inexact: Layers after which a removed channel is missed by the others too.
    """

    def __init__(self, model: Any):
        self.atoms = Atoms()
        self.weights: dict[Any, Weight] = {}
        self.edits: dict[tuple, Edit] = {}
        self.opaque: dict[str, str] = {}
        self.inexact: dict[str, Any] = {}
        self.produced: dict[tuple, Any] = {}
        self.probed: dict[Any, Any] = {}
        graph = graph_of(model)
        for labels in self.walk(graph, [{} for _ in graph.inputs]):
            for atoms in labels.values():
                self.atoms.freeze(atoms, OUTPUT, over=True)

    # Walking

    def walk(self, graph: Any, inputs: list[Labels]) -> list[Labels]:
        """Labels of the outputs of a functional graph, from those of its inputs."""
        known = {id(t): labels for t, labels in zip(graph.inputs, inputs, strict=True)}
        for tensor, labels in zip(graph.inputs, inputs, strict=True):
            for axis, atoms in labels.items():
                self.edit(tensor._keras_history.operation, ("batch_shape", axis), atoms)
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input or any(id(t) in known for t in node.outputs):
                    continue
                given = [known.get(id(t), {}) for t in node.input_tensors]
                results = self.visit(call_of(node), given)
                known.update({id(t): labels for t, labels in
                              zip(node.outputs, results, strict=True)})
        return [known.get(id(t), {}) for t in graph.outputs]

    def visit(self, call: Call, given: list[Labels]) -> list[Labels]:
        """Labels of the outputs of one call."""
        from . import probe, rules

        graph = graph_of(call.op)
        if graph is not None and len(graph.inputs) == len(given) and all(
                len(t.shape) == len(s)
                for t, s in zip(graph.inputs, call.shapes, strict=True)):
            return self.walk(graph, given)
        rule = rules.find(call.op)
        try:
            results = rule(self, call, given) if rule else probe.follow(self, call, given)
        except NotUnderstood as reason:
            return self.give_up(call, given, str(reason))
        return [{a: v for a, v in labels.items() if (v >= 0).any()} for labels in results]

    def give_up(self, call: Call, given: list[Labels], why: str) -> list[Labels]:
        """Freeze all that enters a call, and let nothing leave it."""
        name = path_of(call.op)
        for labels in given:
            self.freeze(labels, f"{name}: {why}")
        if getattr(call.op, "trainable_variables", None):
            self.opaque.setdefault(name, why)
        return [{} for _ in call.results]

    # What rules tell

    def freeze(self, labels: Labels, why: str, but: tuple[int, ...] = ()) -> None:
        """Freeze the labels of a tensor along all axes except `but`."""
        for axis, atoms in labels.items():
            if axis not in but:
                self.atoms.freeze(atoms, why)

    def produce(self, op: Any, key: str, count: int) -> Any:
        """The atoms of the channels that `op` makes: the same in each of its calls."""
        if (id(op), key) not in self.produced:
            self.produced[id(op), key] = self.atoms.new(count)
        return self.produced[id(op), key]

    def weight(self, op: Any, variable: Any, kind: str, axes: dict[int, tuple[str, Any]], *,
               macs: int = 0, rescale: Any = None, size: tuple = ()) -> None:
        """Label axes of a weight: axis -> (role, atoms). In later calls the labels unite."""
        if variable is None and not size:
            return
        key = id(variable) if variable is not None else (id(op), kind)
        one = self.weights.setdefault(key, Weight(
            op, variable, size or tuple(variable.shape), kind, rescale=rescale))
        one.macs += macs
        for axis, (role, atoms) in axes.items():
            axis %= len(one.size)
            if axis in one.labels:
                one.roles[axis] = role if role == one.roles[axis] else "both"
                self.atoms.unite(one.labels[axis], atoms, f"{one.layer} is shared with what stays")
            else:
                one.labels[axis], one.roles[axis] = atoms, role

    def edit(self, op: Any, key: tuple, atoms: Any, per: int = 1) -> None:
        """Label a number in a configuration."""
        name = (id(op), *key)
        if name in self.edits:
            self.atoms.unite(self.edits[name].labels, atoms,
                             f"{path_of(op)} is shared with what stays")
        else:
            self.edits[name] = Edit(op, key, atoms, per)

    def sets(self) -> dict[int, list[int]]:
        """The united atoms that may be removed, by the atom that stands for them."""
        found: dict[int, list[int]] = {}
        for atom in range(len(self.atoms.parent)):
            root = self.atoms.find(atom)
            if root not in self.atoms.reason:
                found.setdefault(root, []).append(atom)
        return found


def along(labels: Labels, axis: int, count: int) -> Any:
    """The atoms along an axis; `FIXED` where it has none."""
    import numpy as np

    found = labels.get(axis)
    return np.full(count, FIXED) if found is None else found


def only(given: list[Labels]) -> Labels:
    """The first input's labels, where masks beside it have none."""
    if any(given[1:]):
        raise NotUnderstood("an input beside the first has channels")
    return given[0]


def tie(graph: Any, atoms: Any, groups: int, name: str) -> None:
    """Every group loses the same places, so that groups stay of one size."""
    each = len(atoms) // groups
    for g in range(1, groups):
        graph.atoms.unite(atoms[:each], atoms[g * each:(g + 1) * each],
                          f"{name}: grouped with what stays")


def graph_of(model: Any) -> Any:
    """The functional graph that a model is, or None: a layer, a model of written code."""
    import keras
    from keras.src.models.functional import Functional

    if isinstance(model, keras.Sequential):
        model = model._functional
    if not isinstance(model, Functional):
        return None
    # A class that derives from Model and is given inputs and outputs may still have its own call.
    return model if type(model).call is Functional.call else None


def call_of(node: Any) -> Call:
    """The call that a node of a functional graph stands for."""
    import keras

    tensors = node.input_tensors

    def fill(values: list) -> tuple[tuple, dict]:
        return node.arguments.fill_in({id(t): v for t, v in zip(tensors, values, strict=True)})

    named = [*enumerate(node.arguments.args), *sorted(node.arguments.kwargs.items())]
    where = [place for place, value in named for t in keras.tree.flatten(value)
             if isinstance(t, keras.KerasTensor)]
    return Call(node.operation, tuple(tuple(t.shape) for t in tensors),
                tuple(keras.backend.standardize_dtype(t.dtype) for t in tensors),
                tuple(tuple(t.shape) for t in node.outputs), fill,
                tuple(where))


def path_of(op: Any) -> str:
    """How reports call an operation."""
    return getattr(op, "path", None) or op.name


def positions(shape: tuple, *axes: int) -> int:
    """Product of a shape's dimensions without the batch and `axes`; a free one counts once."""
    gone = {a % len(shape) for a in axes} | {0}
    return math.prod(d or 1 for i, d in enumerate(shape) if i not in gone)
