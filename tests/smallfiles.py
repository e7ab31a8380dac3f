"""A small residual network as a file, and what a file computes, without TensorFlow."""

import json

import numpy as np
from floatfiles import FloatFile

from tfcompress import targets
from tfcompress.compress.tflite import quantize


def images(count, seed=0):
    """Float images of 16 x 16 x 3, batch 1 each."""
    return np.random.default_rng(seed).random((count, 1, 16, 16, 3), np.float32)


def residual(folder, target="tflite-int8", seed=0):
    """Bytes of conv, conv, add, a convolution of stride 2 beside one of 1 x 1, mean, dense."""
    rng = np.random.default_rng(seed)

    def weights(*shape):
        return rng.normal(size=shape, scale=0.3).astype("f4")

    build = FloatFile()
    x = start = build.conv(build.input("image", (1, 16, 16, 3)), weights(8, 3, 3, 3), relu=True)
    x = build.conv(x, weights(8, 3, 3, 8))
    x = build.op("ADD", [start, x], build.shape(x), "Add", fusedActivationFunction=1)
    long = _halve(build, x, weights(8, 3, 3, 8), weights(8))
    short = _halve(build, x, weights(8, 1, 1, 8), weights(8))
    x = build.op("ADD", [long, short], build.shape(long), "Add", fusedActivationFunction=1)
    x = build.dense(build.mean(x), weights(4, 8))
    folder.mkdir(exist_ok=True)
    path = build.save(folder / "float.tflite", {"logits": x})
    samples = folder / "samples"
    (samples / "inputs").mkdir(parents=True, exist_ok=True)
    np.save(samples / "inputs" / "0.npy", images(24).reshape(24, 16, 16, 3))
    (samples / "samples.json").write_text(json.dumps({"random": False}))
    chosen = targets.load(target).to_dict() | {"min_snr_db": 0.0}
    made = quantize.run({"float": str(path), "samples": str(samples), "targets": [chosen],
                         "out": str(folder), "names": {}, "strict": False}, lambda *_: None)
    return (folder / f"{target}.tflite").read_bytes() if "path" in made["targets"][target] else None


def _halve(build, x, filters, bias):
    rows, high, wide, _ = build.shape(x)
    return build.op("CONV_2D", [x, build.constant(filters), build.constant(bias)],
                    [rows, high // 2, wide // 2, len(filters)], "Conv2D", strideW=2, strideH=2,
                    dilationWFactor=1, dilationHFactor=1)


def outputs(content, image, reference=False):
    """The first output of a file for one float image, in the file's own type."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF} if reference else {}
    interpreter = Interpreter(model_content=content, num_threads=1, **kind)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]
    scale, zero = given["quantization"]
    if scale:
        limits = np.iinfo(given["dtype"])
        image = np.clip(np.round(image / scale) + zero, limits.min, limits.max)
    interpreter.set_tensor(given["index"], image.astype(given["dtype"]))
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
