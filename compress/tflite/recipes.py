"""From a plan to a file: which operation is computed in which precision, carried out.

A plan is a dict from an operation's scope (the names of its output tensors, `surgery.scope`) to one
of `PRECISIONS`. ai-edge-quantizer (AEQ) does the arithmetic; its recipes select operations by
regular expressions on the same scopes.
"""

from __future__ import annotations

import re

from ... import tflite
from . import surgery


def _weights(bits: int) -> dict:
    return {"num_bits": bits, "symmetric": True, "granularity": "CHANNELWISE", "dtype": "INT"}


def _activations(bits: int) -> dict:
    return {"num_bits": bits, "symmetric": bits == 16, "granularity": "TENSORWISE", "dtype": "INT"}


def _config(weights: int, activations: int = 0, dequantize: bool = False) -> dict:
    config = {"weight_tensor_config": _weights(weights), "explicit_dequantize": dequantize,
              "compute_precision": "FLOAT" if dequantize else "INTEGER"}
    return config | ({"activation_tensor_config": _activations(activations)} if activations else {})


# What AEQ is told for each precision, and what people are told.
PRECISIONS = {
    "int8": (_config(8, activations=8), "int8"),
    "int16": (_config(8, activations=16), "int16 activations, int8 weights"),
    "dynamic": (_config(8), "float activations, int8 arithmetic where the kernel has it"),
    "weights": (_config(8, dequantize=True), "float activations, int8 weights"),
    "int4": (_config(4, dequantize=True), "float activations, int4 weights"),
    # These are not AEQ's; `surgery` does them.
    "hybrid": (None, "float activations, int8 weights"),
    "table": (None, "int8 table"),
    "stored": (None, "float activations, int8 weights"),
    "float": (None, "float32"),
}
INTEGER = ("int8", "int16")

# Operators with integer kernels that AEQ does not know -> one that it knows with the same rule:
# any scales for inputs and output, one scale for all of them, or a constant second input. AEQ is
# shown the second and the first is put back afterwards.
STAND_INS = {
    "int8": {
        "LEAKY_RELU": "GELU", "ELU": "GELU", "EXP": "GELU", "LOG": "GELU", "ABS": "GELU",
        "RELU6": "GELU", "RELU_N1_TO_1": "GELU", "RELU_0_TO_1": "GELU", "PRELU": "MUL",
        "EXPAND_DIMS": "RESHAPE", "SQUEEZE": "RESHAPE", "TILE": "RESHAPE", "REVERSE_V2": "RESHAPE",
        "DEPTH_TO_SPACE": "SPACE_TO_DEPTH", "REDUCE_MAX": "REDUCE_MIN", "ARG_MAX": "REDUCE_MIN",
        "ARG_MIN": "REDUCE_MIN", "MINIMUM": "MAXIMUM", "GREATER": "EQUAL", "LESS": "EQUAL",
        "GREATER_EQUAL": "EQUAL", "LESS_EQUAL": "EQUAL",
    },
    "int16": {
        "LEAKY_RELU": "GELU", "EXP": "GELU", "EXPAND_DIMS": "RESHAPE", "SQUEEZE": "RESHAPE",
        "REVERSE_V2": "RESHAPE", "REDUCE_MAX": "REDUCE_MIN", "MINIMUM": "MAXIMUM",
    },
}

# Integer kernels came with version 2 of an operator, but for these.
VERSION_1 = ("ELU", "PRELU", "RELU_N1_TO_1", "RELU_0_TO_1", "EXPAND_DIMS")


def apply(model: bytes, plan: dict[str, str], ranges: dict, dense_per_tensor: bool = False):
    """Quantize a float file by a plan; operations that are not in it stay float.

    Args:
        model: The float file's bytes; its tensor names must be unique.
        plan: `{scope: precision}`.
        ranges: `{tensor name: (min, max)}`; needed for int8 and int16.
        dense_per_tensor: One scale for the weights of a dense layer, as older accelerators need.

    Returns:
        The quantized file as a `ModelT`, with float32 inputs and outputs where they were float32.

    Raises:
        Exception: Whatever AEQ raises on a model that it cannot take.
    """
    import numpy as np
    from ai_edge_quantizer import model_modifier, params_generator, recipe_manager
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe(plan, dense_per_tensor))
    if all(PRECISIONS[p][0] is None for p in plan.values() if p in PRECISIONS):
        return tflite.load(model)
    if not any(precision != "float" for precision in plan.values()):
        return model
    found = {name: {"min": np.array([low]), "max": np.array([high])}
             for name, (low, high) in ranges.items()}
    parsed = tfl_flatbuffer_utils.read_model(memoryview(model))
    generator = params_generator.ParamsGenerator(parsed)
    needs = found if any(p in INTEGER for p in plan.values()) else None
    codes = _stand_in(parsed, plan)
    params = generator.generate_quantization_parameters(manager, needs, enable_progress_bar=False)
    modifier = model_modifier.ModelModifier(parsed)
    made = tflite.load(bytes(modifier.modify_model(params, enable_progress_bar=False)))
    for graph in made.subgraphs:
        for op in graph.operators:
            op.opcodeIndex = codes.get(op.opcodeIndex, op.opcodeIndex)
    return made


def _stand_in(model, plan: dict[str, str]) -> dict[int, int]:
    """Show AEQ the stand-ins; returns `{index of a stand-in's code: index of the real one}`."""
    import copy

    codes = {name: code for code, name in tflite.op_names().items()}
    back: dict[int, int] = {}
    shown: dict[tuple[int, str], int] = {}
    graph = model.subgraphs[0]
    for op in graph.operators:
        name = STAND_INS.get(plan.get(surgery.scope(graph, op)), {}).get(tflite.op_name(model, op))
        if name is None:
            continue
        real = op.opcodeIndex
        if (real, name) not in shown:
            code = copy.copy(model.operatorCodes[real])
            code.builtinCode, code.deprecatedBuiltinCode = codes[name], min(codes[name], 127)
            model.operatorCodes.append(code)
            shown[real, name] = len(model.operatorCodes) - 1
            back[shown[real, name]] = real
            if tflite.op_name(model, op) not in VERSION_1:
                model.operatorCodes[real].version = max(model.operatorCodes[real].version, 2)
        op.opcodeIndex = shown[real, name]
    return back


def recipe(plan: dict[str, str], dense_per_tensor: bool = False) -> list[dict]:
    """The plan in AEQ's form; a later entry of it overrules an earlier one."""
    entries = []
    for precision, (config, _) in PRECISIONS.items():
        chosen = sorted(scope for scope, p in plan.items() if p == precision)
        if config and chosen:
            entry = {
                "regex": "^(?:" + "|".join(re.escape(scope) for scope in chosen) + ")$",
                "operation": "*", "algorithm_key": "min_max_uniform_quantize", "op_config": config,
            }
            entries.append(entry)
            if dense_per_tensor and precision == "int8":
                weights = config["weight_tensor_config"] | {"granularity": "TENSORWISE"}
                entries.append(entry | {"operation": "FULLY_CONNECTED",
                                        "op_config": config | {"weight_tensor_config": weights}})
    # The boundary is made afterwards, tensor by tensor (see `surgery.boundary`).
    entries += [{"regex": ".*", "operation": name, "algorithm_key": "no_quantize"}
                for name in ("INPUT", "OUTPUT")]
    return entries


def supported(model, precision: str) -> list[bool]:
    """Whether AEQ, or a stand-in, has that precision, for every operator of the main subgraph."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    config = qtyping.OpQuantizationConfig.from_dict(PRECISIONS[precision][0])
    # The schema's names are AEQ's, but for one.
    aeq = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"} | STAND_INS.get(precision, {})

    def answer(name: str) -> bool:
        try:
            algorithm_manager.check_op_quantization_config(
                "min_max_uniform_quantize", qtyping.TFLOperationName(aeq.get(name, name)), config)
        except ValueError:
            return False
        return name != "STABLEHLO_COMPOSITE"

    kinds = [tflite.op_name(model, op) for op in model.subgraphs[0].operators]
    answers = {kind: answer(kind) for kind in set(kinds)}
    return [answers[kind] for kind in kinds]
