"""Does a model file carry code? Answered before anything loads it, without TensorFlow or Keras.

Loading a Keras model builds Python objects that its configuration names. The configuration may
hold bytecode (Lambda layers), name functions that do more than compute (`keras.utils.get_file`,
`os.system`), or point at other files. Keras 3's `safe_mode` refuses much of that and tf_keras
little, so every configuration is walked here first, and what is not known to be harmless is
refused. The advisories named in tests/compress/test_scan.py are the record of what happens
otherwise. A SavedModel runs no Python, but its operations can read and write files.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UnsafeModelError
from .container import Container, read

RISK = "loading it would run code from the file with your rights; " \
       "if you trust its author, pass --unsafe-load"

# Where Keras keeps things that only compute. `src` and `engine` are older or inner names of the
# same places; every other part of Keras (utils, saving, backend, config, ...) does more than that.
KERAS_PARTS = frozenset(
    "activations constraints initializers losses metrics optimizers regularizers layers models "
    "ops random quantizers dtype_policies mixed_precision engine trainers premade_models "
    "legacy".split())
FUNCTION_PARTS = frozenset(
    "activations constraints initializers losses metrics optimizers regularizers ops".split())
KERAS_ROOTS = ("keras", "tf_keras")
UTILITY_CLASSES = frozenset({"FeatureSpace", "Cross", "Feature"})
CODE_CLASSES = {
    "Lambda": "is a Lambda layer", "__lambda__": "is a Python lambda",
    "TFSMLayer": "loads another SavedModel", "TorchModuleWrapper": "holds pickled PyTorch code",
    "JaxLayer": "holds JAX code", "FlaxLayer": "holds JAX code",
}

# tf_keras rebuilds TFOpLambda layers by calling any function of the TensorFlow API by its name.
OP_GROUPS = frozenset("math nn linalg signal bitwise image strings __operators__ sets sparse "
                      "ragged dtypes random".split())
OP_NAMES = frozenset(
    "abs acos acosh add add_n argmax argmin argsort asin asinh atan atan2 atanh batch_to_space "
    "batch_to_space_nd bitcast boolean_mask broadcast_to cast clip_by_norm clip_by_value complex "
    "concat convert_to_tensor cos cosh cumprod cumsum divide edit_distance einsum ensure_shape "
    "equal exp expand_dims eye fill floor gather gather_nd greater greater_equal "
    "histogram_fixed_width identity identity_n is_tensor less less_equal linspace logical_and "
    "logical_not logical_or matmul maximum meshgrid minimum multiply negative no_op norm "
    "not_equal one_hot ones ones_like pad parallel_stack pow range rank realdiv reduce_all "
    "reduce_any reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod reduce_sum repeat "
    "reshape reverse reverse_sequence roll round saturate_cast scalar_mul scatter_nd searchsorted "
    "sequence_mask shape shape_n sigmoid sign sin sinh size slice sort space_to_batch "
    "space_to_batch_nd split sqrt square squeeze stack stop_gradient strided_slice subtract tan "
    "tanh tensor_scatter_nd_add tensor_scatter_nd_max tensor_scatter_nd_min tensor_scatter_nd_sub "
    "tensor_scatter_nd_update tensordot tile top_k transpose truediv truncatediv truncatemod "
    "unique unique_with_counts unravel_index unsorted_segment_sum unstack where zeros "
    "zeros_like".split())
KERAS_OP = re.compile(r"keras\.(backend|activations|losses)\.[a-z0-9_]+")
UNSAFE_BACKEND = re.compile(r"function|set_|clear_|get_session|load|save|eval|print|learning")

# Operations that touch files, processes or Python; what only a checkpoint needs is allowed.
FILE_OPS = re.compile(
    rb"[\x00-\x1f](ReadFile|WriteFile|MatchingFiles|PyFunc|EagerPyFunc|WholeFileReader|"
    rb"TextLineReader|TextLineDataset|TFRecordReader|TFRecordDataset|FixedLengthRecord(?:Reader|"
    rb"Dataset)|SaveDataset|LoadDataset|SnapshotDataset|DebugIdentity|DebugNumericSummary|"
    rb"CreateSummaryFileWriter|CreateSummaryDbWriter|LoadAndRemapMatrix|GenerateVocabRemapping|"
    rb"RemoteCall|RemoteFusedGraphExecute|RpcClient|RpcServer|SqlDataset|LMDB)")


@dataclass(frozen=True)
class Custom:
    """A class or function that the file names and Keras does not have.

    Without a `registered` name no loader finds it among the user's classes: tf_keras would
    import `module` instead, so such a file is never loaded.
    """

    module: str
    name: str
    registered: str


@dataclass(frozen=True)
class Scan:
    """What a sound and harmless file is: its container, and what the user must bring along."""

    container: Container
    custom: tuple[Custom, ...] = ()


def check(path: str | Path, *, unsafe: bool = False) -> Scan:
    """Check a model file before it is loaded.

    Args:
        path: A `.keras` or `.h5` file or a SavedModel folder; only read.
        unsafe: Accept code in the file. A container that reaches outside itself or would
            exhaust memory is refused even then.

    Raises:
        ModelError: It is missing, unreadable, damaged, or no model.
        UnsafeModelError: It carries code; the message names the layer and the reason.
    """
    container = read(path)
    if not unsafe:
        for found in _code(container):
            raise UnsafeModelError(f"{path}: {found}", RISK)
    custom: dict[tuple, Custom] = {}
    for where, config in container.configs.items():
        if where != "training_config":
            for item, inside in _objects(config):
                if "compile_config" not in inside and (one := _custom(item)):
                    custom.setdefault((one.registered, one.name), one)
    return Scan(container, tuple(custom.values()))


def _code(container: Container) -> Iterator[str]:
    """Every reason not to load the file, in words."""
    for where, config in container.configs.items():
        for item, inside in _objects(config):
            if reason := _reason(item):
                yield f"{_place(item, inside, where)} {reason}"
    if found := FILE_OPS.search(container.graph):
        yield f"the SavedModel holds the operation {found[1].decode()}, which reaches outside it"
    if b"../" in container.graph or b"file://" in container.graph:
        yield "the SavedModel names files outside its folder"


def _objects(config: object) -> Iterator[tuple[dict, tuple[str, ...]]]:
    """Every dict in a configuration, also in JSON inside strings, with the names around it."""
    waiting: list[tuple[object, tuple[str, ...]]] = [(config, ())]
    while waiting:
        value, inside = waiting.pop()
        if isinstance(value, str) and value.lstrip()[:1] in ("{", "[") and "class_name" in value:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                continue
        if isinstance(value, dict):
            yield value, inside
            name = value.get("name")
            inside = (*inside, name) if isinstance(name, str) else inside
            waiting += [(v, (*inside, k) if k == "compile_config" else inside)
                        for k, v in reversed(list(value.items()))]
        elif isinstance(value, list):
            waiting += [(v, inside) for v in reversed(value)]


def _place(item: dict, inside: tuple[str, ...], where: str) -> str:
    config = item.get("config")
    name = config.get("name") if isinstance(config, dict) else None
    name = name or item.get("name") or (inside[-1] if inside else None)
    return f"layer {name!r}" if isinstance(name, str) else f"an object in {where}"


def _reason(item: dict) -> str | None:
    """Why this one object is not harmless, or None."""
    kind, module, config = item.get("class_name"), item.get("module"), item.get("config")
    names = [kind, item.get("registered_name")]
    for name in names:
        if isinstance(name, str) and (why := CODE_CLASSES.get(name.split(">")[-1].split(".")[-1])):
            return why
    if "lambda" in [v for k, v in item.items() if k.endswith("_type") and isinstance(v, str)]:
        return "holds a Python lambda"
    for key in ("vocabulary", "vocabulary_file", "idf_weights"):
        if isinstance(item.get(key), str) and item[key] and not item[key].startswith("["):
            return f"reads the file {item[key]!r}"
    name = item.get("name")
    if isinstance(name, str) and (".." in re.split(r"[/\\]", name) or "\0" in name):
        return f"has a name that is a path: {name!r}"
    if kind == "function":
        return _function_reason(module, config)
    if isinstance(kind, str) and isinstance(module, str):
        if reason := _module_reason(module, kind):
            return reason
    if kind in ("TFOpLambda", "SlicingOpLambda") and isinstance(config, dict):
        symbol = config.get("function")
        return None if known_op(symbol) else f"calls tf.{symbol}"
    if kind in ("ClassMethod", "InstanceMethod", "InstanceProperty"):
        config = config if isinstance(config, dict) else {}
        called = str(config.get("method_name") or config.get("attr_name") or "_")
        owner = str(config.get("cls_symbol", "Tensor")).split(".")[-1]
        if called.startswith("_") or owner not in ("Tensor", "RaggedTensor", "SparseTensor"):
            return f"calls {owner}.{called}"
    return None


def _function_reason(module: object, name: object) -> str | None:
    name = name if isinstance(name, str) else str(name)
    if module in (None, "builtins"):  # tf_keras falls back to Python's own builtins
        return f"calls Python's {name}()" if hasattr(builtins, name) else None
    if not isinstance(module, str):
        return "names a function without a module"
    root, part = _split(module)
    if root in KERAS_ROOTS:
        return None if part in FUNCTION_PARTS and "." not in name else f"calls {module}.{name}"
    return _module_reason(module, name)


def _module_reason(module: str, name: str) -> str | None:
    root, part = _split(module)
    if name == "__typespec__":
        return None if module.startswith("tensorflow.python.") else f"uses the module {module}"
    if root in KERAS_ROOTS:
        if "." in name or not (name[:1].isupper() or name[:1] == "_" or part in FUNCTION_PARTS):
            return f"uses {module}.{name}"
        if part in ("", *KERAS_PARTS) or (part == "utils" and name in UTILITY_CLASSES):
            return None
        return f"uses {module}.{name}"
    if module == "builtins":
        return f"uses Python's {name}" if hasattr(builtins, name) else None
    if root in sys.stdlib_module_names and root != "__main__":
        return f"uses the Python module {module!r}"
    return None


def _split(module: str) -> tuple[str, str]:
    """`keras.src.layers.core.dense` -> `keras`, `layers`; also for tf.keras and old layouts."""
    parts = module.split(".")
    if parts[:2] == ["tensorflow", "keras"]:
        parts = parts[1:]
    elif parts[:3] == ["tensorflow", "python", "keras"]:
        parts = parts[2:]
    rest = [p for p in parts[1:] if p not in ("src", "_tf_keras", "api", "_v2", "v2")]
    if rest[:1] == ["keras"]:
        rest = rest[1:]
    return parts[0], rest[0] if rest else ""


def known_op(symbol: object) -> bool:
    if not isinstance(symbol, str):
        return False
    symbol = re.sub(r"^(compat\.v[12]|raw_ops)\.", "", symbol)
    group, _, name = symbol.rpartition(".")
    if symbol.startswith("keras."):
        return bool(KERAS_OP.fullmatch(symbol)) and not UNSAFE_BACKEND.search(name)
    return symbol in OP_NAMES or group.split(".")[0] in OP_GROUPS


def _custom(item: dict) -> Custom | None:
    """The class or function that the user must bring, where the item names its module."""
    kind, module, config = item.get("class_name"), item.get("module"), item.get("config")
    registered = item.get("registered_name")
    if not isinstance(kind, str) or "config" not in item or kind.startswith("__"):
        return None
    name = config if kind == "function" else kind
    if not isinstance(name, str):
        return None
    outside = isinstance(module, str) and module != "builtins" \
        and _split(module)[0] not in KERAS_ROOTS
    if outside or (module is None and isinstance(registered, str) and ">" in registered):
        if kind == "function":  # Kerases look functions up by their own name
            return Custom(module or "", name, name)
        return Custom(module or "", name, registered if isinstance(registered, str) else "")
    return None
