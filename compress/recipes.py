"""From a plan to a file: which operation is computed in which precision, carried out.

A plan is a dict from an operation's scope (the names of its output tensors, `surgery.scope`) to one
of `PRECISIONS`. ai-edge-quantizer (AEQ) does the arithmetic; its recipes select operations by
regular expressions on the same scopes.
"""

from __future__ import annotations

import re

from .. import tflite


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
    "kernel": (None, "int8"),
    "hybrid": (None, "float activations, int8 weights"),
    "table": (None, "int8 table"),
    "stored": (None, "float activations, int8 weights"),
    "float": (None, "float32"),
}
INTEGER = ("int8", "int16")


def apply(model: bytes, plan: dict[str, str], ranges: dict) -> bytes:
    """Quantize a float file by a plan; operations that are not in it stay float.

    Args:
        model: The float file's bytes; its tensor names must be unique.
        plan: `{scope: precision}`.
        ranges: `{tensor name: (min, max)}`; needed for int8 and int16.

    Returns:
        The quantized file's bytes, with float32 inputs and outputs where they were float32.

    Raises:
        Exception: Whatever AEQ raises on a model that it cannot take.
    """
    import numpy as np
    from ai_edge_quantizer import model_modifier, params_generator, recipe_manager
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe(plan))
    if not any(precision != "float" for precision in plan.values()):
        return model
    found = {name: {"min": np.array([low]), "max": np.array([high])}
             for name, (low, high) in ranges.items()}
    parsed = tfl_flatbuffer_utils.read_model(memoryview(model))
    generator = params_generator.ParamsGenerator(parsed)
    needs = found if any(p in INTEGER for p in plan.values()) else None
    params = generator.generate_quantization_parameters(manager, needs, enable_progress_bar=False)
    modifier = model_modifier.ModelModifier(parsed)
    return bytes(modifier.modify_model(params, enable_progress_bar=False))


def recipe(plan: dict[str, str]) -> list[dict]:
    """The plan in AEQ's form."""
    entries = []
    for precision, (config, _) in PRECISIONS.items():
        chosen = sorted(scope for scope, p in plan.items() if p == precision)
        if config and chosen:
            entries.append({
                "regex": "^(?:" + "|".join(re.escape(scope) for scope in chosen) + ")$",
                "operation": "*", "algorithm_key": "min_max_uniform_quantize", "op_config": config,
            })
    # The boundary is made afterwards, tensor by tensor (see `surgery.boundary`).
    entries += [{"regex": ".*", "operation": name, "algorithm_key": "no_quantize"}
                for name in ("INPUT", "OUTPUT")]
    return entries


def supported(model, precision: str) -> list[bool]:
    """Whether AEQ knows the operation in that precision, for every one of the main subgraph."""
    from ai_edge_quantizer import algorithm_manager, qtyping
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils

    config = qtyping.OpQuantizationConfig.from_dict(PRECISIONS[precision][0])
    answers: dict[int, bool] = {}
    for code in {model.operatorCodes[op.opcodeIndex].builtinCode
                 for op in model.subgraphs[0].operators}:
        name = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(code)
        answers[code] = name is not None
        if name is not None:
            try:
                algorithm_manager.check_op_quantization_config(
                    "min_max_uniform_quantize", name, config)
            except ValueError:
                answers[code] = False
    return [answers[model.operatorCodes[op.opcodeIndex].builtinCode]
            and tflite.op_name(model, op) != "STABLEHLO_COMPOSITE"
            for op in model.subgraphs[0].operators]
