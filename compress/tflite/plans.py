"""The plan of one target: what every operation is given at first, and what when that is too little.
"""

from __future__ import annotations

import math

from ... import tflite
from ...errors import TargetError
from . import grids, mixed, recipes, surgery

MARGIN = 2.0  # dB above the asked SNR, because it is measured on few rows
LARGE = 1_000_000_000  # MACs from which less is tried
EXACT = 40.0  # dB; better than this is not worth bytes
SMALLEST = 1024  # values; smaller constants that AEQ does not take stay float32
HINTS = ("SOFTMAX", "LOGISTIC", "TANH")  # their fixed output scale ruins small values
COMPARISONS = ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")
CLIPPED = (2, 3)  # ActivationFunctionType: RELU_N1_TO_1, RELU6
# For each quantization the precisions that an operation may have, the wanted one first.
LADDERS = {
    "none": ("float",),
    "int8": ("int8", "hybrid", "weights", "stored", "float"),
    "int16x8": ("int16", "hybrid", "weights", "stored", "float"),
    "dynamic": ("dynamic", "table", "hybrid", "weights", "stored", "float"),
    "int4": ("int4", "table", "hybrid", "weights", "stored", "float"),
}
END = "end of the model: "  # prefix of the items that stand for inputs and outputs


def make(source, target: dict) -> tuple[bytes, list[dict], list[str]]:
    """The file of one target, its fallbacks and notes (see `Job.make`)."""
    return Job(source, target).make()


class Job:
    """Makes one target's file.

    Args:
        source: The float file and what is known of it (`quantize.Source`).
        target: `Target.to_dict()`.
    """

    def __init__(self, source, target: dict):
        self.source, self.target = source, target
        self.kind, self.io = target["quantization"], target.get("io_dtype", "float32")
        # int16 kernels are slow on a PC
        self.few = 4 if self.kind == "int16x8" else None
        self.model = tflite.load(source.model)
        self.graph = self.model.subgraphs[0]
        self.weights = grids.Weights(self.model)
        self.how = "min-max"
        self.ladders = self._ladders()
        self.built: dict[tuple, tuple[bytes, float]] = {}
        asked = float(target.get("min_snr_db") or 0.0)
        self.asked, self.goal = asked, asked + MARGIN

    def make(self) -> tuple[bytes, list[dict], list[str]]:
        """`(file's bytes, fallbacks, notes)`.

        Raises:
            TargetError: No plan could be built.
        """
        base = {item: ladder[0] for item, ladder in self.ladders.items()}
        notes = self._choose_ranges(base)
        plan, search = base, mixed.Search(
            self._trial, self.goal, 24 if self.source.macs > LARGE or len(base) > 150 else 64)
        before = self._trial(base)
        if before < self.goal:
            plan = self._widen(base, search)
        elif self.kind == "int4" and before < EXACT:
            plan, said = self._polish(base, before)
            notes += said
        model, after = self._build(plan)
        if model is None:
            raise TargetError(f"{self.target['name']}: no file could be made of this model",
                              "report it, with --debug")
        return model, self._fallbacks(base, plan, before, after, search), notes

    def _choose_ranges(self, base: dict) -> list[str]:
        """Ranges over all samples; the mean of the samples' extremes where only that will do.

        Narrower ranges clip: they often raise the SNR and lower the accuracy.
        """
        widest = self._trial(base)
        if self._hints():
            return []  # a narrower range does not help those
        if self.kind != "int8" or self.source.samples.count < 2 or widest >= self.goal:
            return []
        self.how = "mean"
        if self._trial(base) >= max(widest, self.goal):
            return ["activation ranges: mean of the samples' smallest and largest values"]
        self.how = "min-max"
        return []

    def _ladders(self) -> dict[str, tuple[str, ...]]:
        """Item (an operation's scope, or an end of the model) -> its precisions, wanted first."""
        wanted = LADDERS[self.kind]
        able = {p: recipes.supported(self.model, p) for p in wanted
                if recipes.PRECISIONS[p][0] is not None}
        unbounded = self._unbounded() if self.kind in ("int8", "int16x8") else set()
        self.unbounded, found = set(), {}
        for index, op in enumerate(self.graph.operators):
            ladder = tuple(p for p in wanted if (able[p][index] if p in able
                                                 else self._takes(op, p)))
            if not self._comparable(op):
                ladder = tuple(p for p in ladder if p not in recipes.INTEGER)
            if unbounded & {*op.inputs, *op.outputs}:
                ladder = tuple(p for p in ladder if p not in recipes.INTEGER)
                self.unbounded.add(surgery.scope(self.graph, op))
            if self._has_floats(op):
                found[surgery.scope(self.graph, op)] = ladder
        for graph in self.model.subgraphs[1:]:  # bodies of loops: their weights only
            for op in graph.operators:
                if tflite.op_name(self.model, op) == "FULLY_CONNECTED" and self.kind != "none":
                    found[surgery.scope(graph, op)] = ("weights", "float")
        if self.io != "float32":
            ends = [("input", i) for i in self.graph.inputs]
            ends += [("output", i) for i in self.graph.outputs]
            names = dict(zip(("input", "output"), surgery.end_names(self.model), strict=True))
            for which, index in ends:
                if tflite.dtype_names()[self.graph.tensors[index].type] == "float32":
                    found[END + which + " " + names[which].get(index, "")] = (self.io, "float")
        return found

    def _has_floats(self, op) -> bool:
        return any(tflite.dtype_names()[self.graph.tensors[i].type] == "float32"
                   for i in op.inputs + op.outputs if i >= 0)

    def _comparable(self, op) -> bool:
        """False for comparisons that int8 would spoil, or that end the process.

        Equality means nothing between rounded numbers (x != x asks for NaN). The runtime aborts
        on comparisons with a scale of 1 or more.
        """
        name = tflite.op_name(self.model, op)
        if name in ("EQUAL", "NOT_EQUAL"):
            return False
        if name not in COMPARISONS or self.kind not in ("int8", "int16x8"):
            return True
        ranges = self.source.ranges("min-max")
        for index in op.inputs:
            tensor = self.graph.tensors[index]
            values = tflite.constant(self.model, tensor)
            low, high = ranges.get(tensor.name.decode(), (0, 0)) if values is None else (
                float(values.min(initial=0)), float(values.max(initial=0)))
            if max(high, 0) - min(low, 0) > 200:
                return False
        return True

    def _unbounded(self) -> set[int]:
        """Tensors without a usable range: infinite values, or never computed."""
        ranges = self.source.ranges("min-max")
        written = {*self.graph.inputs, *(i for op in self.graph.operators for i in op.outputs)}
        return {i for i in written if i >= 0
                and tflite.dtype_names()[self.graph.tensors[i].type] == "float32"
                and self.graph.tensors[i].name.decode() not in ranges}

    def _takes(self, op, precision: str) -> bool:
        name = tflite.op_name(self.model, op)
        large = any(self._large(i) for i in op.inputs if i >= 0)
        if precision == "hybrid":
            return name == "UNIDIRECTIONAL_SEQUENCE_LSTM"
        if precision == "table":
            return name == "GATHER" and self._large(op.inputs[0])
        if precision == "stored":
            return large
        return precision == "float"

    def _large(self, index: int) -> bool:
        tensor = self.graph.tensors[index]
        return (tflite.dtype_names()[tensor.type] == "float32"
                and math.prod(tensor.shape) >= SMALLEST
                and self.model.buffers[tensor.buffer].data is not None)

    def _trial(self, plan: dict[str, str]) -> float:
        return self._build(plan)[1]

    def _build(self, plan: dict[str, str]) -> tuple[bytes | None, float]:
        """The file of a plan and the SNR of its worst output; `(None, -inf)` if it does not run."""
        key = (self.how, *sorted(plan.items()))
        if key not in self.built:
            try:
                model = self._carry_out(plan)
                snr = min(self.source.snr(model, self.few).values(), default=math.inf)
            except Exception as error:  # AEQ and the runtime refuse in many ways
                self.failure = error
                model, snr = None, -math.inf
            self.built = {k: (None, v[1]) for k, v in self.built.items()}  # keep one file only
            self.built[key] = (model, snr)
        elif self.built[key][0] is None and self.built[key][1] > -math.inf:
            self.built[key] = (self._carry_out(plan), self.built[key][1])
        return self.built[key]

    def _ranges(self) -> dict:
        """`{tensor name: (min, max)}`, not narrower than the kernels' integers can express.

        A fused RELU6 is kept as round(6 / scale) in 32 bits.
        """
        if self.kind not in ("int8", "int16x8") and self.io == "float32":
            return {}
        ranges = self.source.ranges(self.how)
        least = 1e-4 if self.kind == "int16x8" else 1e-6
        for op in self.graph.operators:
            if getattr(op.builtinOptions, "fusedActivationFunction", 0) in CLIPPED:
                name = self.graph.tensors[op.outputs[0]].name.decode()
                if name in ranges:
                    ranges[name] = (ranges[name][0], max(ranges[name][1], least))
        return ranges

    def _carry_out(self, plan: dict[str, str]) -> bytes:
        ranges = self._ranges()
        dense = self.target.get("options", {}).get("dense_weights") == "per-tensor"
        model = recipes.apply(self.source.model, plan, ranges, dense_per_tensor=dense)
        grids.apply(model, self.weights.grid, self.weights.bias, one_dense=dense)

        def having(precision):
            return {item for item, p in plan.items() if p == precision}

        surgery.hybrid_lstm(model, having("hybrid"))
        surgery.int8_table(model, having("table"))
        stored = having("stored")
        surgery.store(model, "int8", SMALLEST, lambda _, scope: scope in stored)
        keep = {item.split(" ")[-1] for item, p in plan.items()
                if item.startswith(END) and p == "float"}
        surgery.boundary(model, self.io, ranges, keep)
        surgery.compact(model)
        return tflite.dump(model)

    def _widen(self, plan: dict, search: mixed.Search) -> dict:
        """Climb the ladders until the goal is met; the best plan seen where it cannot be."""
        best, hints = plan, self._hints()
        while True:
            wider = {item: ladder[ladder.index(plan[item]) + 1]
                     for item, ladder in self.ladders.items()
                     if item in plan and plan[item] != ladder[-1]}
            if not wider:
                return plan if self._trial(plan) >= self._trial(best) else best
            found = search.widen(plan, wider, hints)
            if found is not None:
                return self._prefer_int16(plan, found, best)
            plan, hints = plan | wider, []
            if self._trial(plan) > self._trial(best):
                best = plan

    def _hints(self) -> list[str]:
        """The usual culprits: output functions of a fixed scale."""
        return [surgery.scope(self.graph, op) for op in self.graph.operators
                if tflite.op_name(self.model, op) in HINTS
                and {*op.outputs} & {*self.graph.outputs}]

    def _prefer_int16(self, narrow: dict, found: dict, base: dict) -> dict:
        """int16 activations instead of float ones in an int8 file, where they do as well."""
        if self.kind != "int8":
            return found
        able = dict(zip((surgery.scope(self.graph, op) for op in self.graph.operators),
                        recipes.supported(self.model, "int16"), strict=True))
        wide = [i for i in found if found[i] != base[i] and able.get(i)]
        plan = found | dict.fromkeys(wide, "int16")
        return plan if wide and self._trial(plan) >= self.goal else found

    def _polish(self, base: dict, before: float) -> tuple[dict, list[str]]:
        """int8 instead of int4 weights where few bytes buy much accuracy."""
        sizes = {surgery.scope(self.graph, op): max(
            (math.prod(self.graph.tensors[i].shape) for i in op.inputs if i >= 0
             and self.model.buffers[self.graph.tensors[i].buffer].data is not None), default=0)
            for op in self.graph.operators}
        four = [item for item, p in base.items() if p == "int4"]
        budget = sum(sizes[i] for i in four) // 2 // 20  # a twentieth of the int4 bytes
        small = [i for i in four if sizes[i] // 2 <= budget]
        if not small or len(small) > 128:
            return base, []
        wide = base | dict.fromkeys(four, "weights")
        gain = {i: 10 ** (-self._trial(wide | {i: "int4"}) / 10) / max(sizes[i], 1) for i in small}
        chosen, spent = [], 0
        for item in sorted(small, key=lambda i: -gain[i]):
            if spent + sizes[item] // 2 <= budget:
                chosen.append(item)
                spent += sizes[item] // 2
        plan = base | dict.fromkeys(chosen, "weights")
        after = self._trial(plan)
        if after < before + 1:
            return base, []
        return plan, [f"{len(chosen)} layers keep int8 weights: {spent:,} bytes more, "
                      f"SNR {before:.1f} -> {after:.1f} dB"]

    def _fallbacks(self, base, plan, before, after, search) -> list[dict]:
        """One record per operation or end that is wider than the target asks for."""
        wanted = {"int8": ("int8",), "int16x8": ("int16",)}.get(self.kind, ())
        if not wanted:  # weights only: whatever fell below its own first choice
            wide = [i for i in plan if plan[i] != base[i] and not (
                self.kind == "int4" and before >= self.goal)]
        else:
            wide = [i for i in plan if plan[i] not in wanted and plan[i] != self.io]
        ops = {surgery.scope(g, op): (g, op) for g in self.model.subgraphs for op in g.operators}
        layers = tflite.layer_names(self.model)
        base_model, _ = self._build(base)
        final, _ = self._build(plan)
        grown = len(final) - len(base_model) if base_model else None
        return [self._fallback(i, plan[i], plan[i] != base[i], ops.get(i), layers, search,
                               self._cost(before, after, grown)) for i in wide]

    @staticmethod
    def _cost(before: float, after: float, grown: int | None) -> str:
        size = f"{grown:+,} bytes, " if grown is not None else ""
        was = f"{before:.1f} dB" if before > -math.inf else "a file that does not run"
        now = f"{after:.1f} dB" if after < math.inf else "exact"
        return f"{size}SNR {was} -> {now} (all of them together)"

    def _fallback(self, item, precision, searched, found, layers, search, cost) -> dict:
        said = recipes.PRECISIONS[precision][1]
        if item.startswith(END):
            return {"op": item.split(" ")[-2].upper(), "tensor": item.split(" ")[-1], "layer": "",
                    "precision": said, "why": f"{self.io} is too coarse for its values",
                    "cost": cost}
        graph, op = found
        tensor = graph.tensors[[*op.outputs, *op.inputs][0]].name.decode()
        if searched:
            alone = search.alone.get(item)
            why = (f"{self.kind} here alone leaves {alone:.1f} dB"
                   if alone is not None and abs(alone) < math.inf
                   else f"{self.kind} here fails at run time" if alone == -math.inf
                   else f"in {self.kind} the outputs fall below {self.asked:.0f} dB")
        else:
            why = ("its values have no bounded range" if item in self.unbounded
                   else f"no {self.kind} form of this operation")
            cost = "computed in float between a DEQUANTIZE and a QUANTIZE"
        return {"op": tflite.op_name(self.model, op), "tensor": tensor,
                "layer": layers.get(tensor, ""), "precision": said, "why": why, "cost": cost}
