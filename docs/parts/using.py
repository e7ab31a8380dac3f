"""How each kind of artifact is used: commands and programs, by format, runtime and compiler."""

from pathlib import Path

from tfcompress import targets

ROOT = Path(__file__).parent.parent.parent
TITLES = {"npu.md": "Edge TPU, Ethos-U and microcontrollers", "browser.md": "In the browser",
          "gpu.md": "On a GPU"}
DATA = 'x = np.load("samples.npz")["x_test"][:1].astype("float32")'

TFLITE = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("THE_ARTIFACT")
interpreter.allocate_tensors()
(entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
THE_DATA
interpreter.set_tensor(entry["index"], x)
interpreter.invoke()
print(interpreter.get_tensor(exit_["index"])[0].argmax())
"""
INTEGER = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("THE_ARTIFACT")
interpreter.allocate_tensors()
(entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
THE_DATA
scale, zero = entry["quantization"]
stored = np.clip(np.round(x / scale) + zero, -128, 127).astype("int8")
interpreter.set_tensor(entry["index"], stored)
interpreter.invoke()
scale, zero = exit_["quantization"]
y = (interpreter.get_tensor(exit_["index"]).astype("float32") - zero) * scale
print(y[0].argmax())
"""
KERAS = """
import keras
import numpy as np

model = keras.models.load_model("THE_ARTIFACT")
THE_DATA
print(model.predict(x, verbose=0)[0].argmax())
"""
SAVED_MODEL = """
import numpy as np
import tensorflow as tf

serve = tf.saved_model.load("THE_ARTIFACT").signatures["serving_default"]
THE_DATA
(name,) = serve.structured_input_signature[1]
(y,) = serve(**{name: tf.constant(x)}).values()
print(y.numpy()[0].argmax())
"""
ONNX = """
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("THE_ARTIFACT")
THE_DATA
(y,) = session.run(None, {session.get_inputs()[0].name: x})
print(y[0].argmax())
"""
GPU = """
On Android, give the file to LiteRT's `CompiledModel` with the accelerator `GPU`. In Python:

<!-- not run: needs a Vulkan driver -->
```python
from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator

model = CompiledModel.from_file("THE_ARTIFACT", hardware_accel=HardwareAccelerator.GPU)
```
"""
WEB = """
In the folder, `npm install && npm start`, then open http://localhost:8000. In a page of your own:

```js
import {about, load, predict} from "./THE_NAME/model.js";

await load("THE_BACKEND");
const [scores] = await predict([new Float32Array(64)]);   // one array per input of `about.inputs`
```
"""
TFJS = """
The page loads TensorFlow.js first, as the artifact's own `index.html` does.
"""
EDGE_TPU = """
On the machine with the Coral device and libedgetpu (a host without it runs the int8 file as
[tflite-int8](tflite-int8.md#use-it) shows):

<!-- not run: needs an Edge TPU -->
```python
from ai_edge_litert.interpreter import Interpreter, load_delegate

interpreter = Interpreter(
    "THE_ARTIFACT", experimental_delegates=[load_delegate("libedgetpu.so.1")])
```

Where the compiler was not on PATH, run it first: `edgetpu_compiler -s THE_ARTIFACT`.
"""
VELA = """
The file is for TFLite Micro with the Ethos-U driver: make it part of the firmware as a C array and
register the NPU's operator beside those that stayed on the CPU:

```cpp
tflite::MicroMutableOpResolver<1> resolver;
resolver.AddEthosU();
```

`THE_NAME_per-layer.csv` and the summary beside it are Vela's own tables of cycles and memory.
"""
MICRO = """
Compile `THE_NAME-model.cc` and `THE_NAME-model.h` into the firmware, as `model.cc` and `model.h`
(the first includes the second under that name). They register exactly the operators of the model:

```cpp
#include "model.h"
alignas(16) static uint8_t arena[g_model_arena_size];
tflite::MicroMutableOpResolver<g_model_operators> resolver;
g_model_register(resolver);
tflite::MicroInterpreter interpreter(tflite::GetModel(g_model), resolver, arena, sizeof(arena));
```
"""
SERVING = """
TensorFlow Serving takes the folder as one version of a model: `models/digits/1`. Requests that warm
it up lie in `assets.extra`.
"""


def path(target: targets.Target) -> str:
    """Where the artifact lies in the output folder of `model.keras`."""
    suffix = "" if target.compiler == "web" else targets.SUFFIXES[target.format]
    return f"model-tfcompress/{target.name}{suffix}"


def made(target: targets.Target) -> str:
    """One sentence on where the artifact is."""
    return f"The artifact is `{path(target)}`."


def use(target: targets.Target) -> str:
    """A section that shows how a program takes the artifact."""
    told = _template(target)
    for word, text in (("THE_ARTIFACT", path(target)), ("THE_DATA", DATA),
                       ("THE_NAME", target.name),
                       ("THE_BACKEND", "webgl" if target.format == "tfjs" else "wasm")):
        told = told.replace(word, text)
    return told.strip() if "```" in told else f"```python\n{told.strip()}\n```"


def _template(target: targets.Target) -> str:
    compiled = {"edgetpu": EDGE_TPU, "vela": VELA, "micro": MICRO, "web": WEB}
    if target.compiler:
        return compiled[target.compiler]
    if target.runtime == "litert-gpu":
        return GPU
    if target.format == "tfjs":
        return WEB + TFJS
    if target.format == "saved-model":
        return f"```python\n{SAVED_MODEL.strip()}\n```\n{SERVING}"
    return {"keras": KERAS, "onnx": ONNX,
            "tflite": INTEGER if target.io_dtype == "int8" else TFLITE}[target.format]
