"""Reading and writing .tflite files as objects, without running them.

    describe("m.tflite") -> what is in the file: operators, signature, weights, MACs

`load` gives the schema's own object tree (`ai_edge_litert.schema_py_generated.ModelT`) for passes
that change it, and `dump` writes it back.
"""

from .contents import describe, is_weight, layer_names, macs, operations
from .file import (
    ALIGNMENT,
    IDENTIFIER,
    aligned_buffer,
    constant,
    dtype_names,
    dump,
    load,
    op_name,
    op_names,
)

__all__ = ["ALIGNMENT", "IDENTIFIER", "aligned_buffer", "constant", "describe", "dtype_names",
           "dump", "is_weight", "layer_names", "load", "macs", "op_name", "op_names", "operations"]
