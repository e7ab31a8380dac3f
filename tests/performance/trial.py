"""One model for many targets: made as `tfcompress shrink` makes it, run by the target's runtime.

A model is traced and converted to each float format once; every target starts from those files.
Ranges are calibrated on 100 seeded random samples (16 images), and 16 others (8) are judged.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import zlib
from functools import cached_property
from pathlib import Path

TESTS = Path(__file__).parent.parent
CALIBRATED, JUDGED = 100, 16
CALIBRATED_IMAGES, JUDGED_IMAGES = 16, 8
SIDES = ("inputs", "outputs")


class Trial:
    """A Keras model, inputs for it, and its files as they are asked for.

    Args:
        model: The model.
        folder: For its files.
        rows: Inputs to calibrate with and to judge with, one array per model input each; seeded
            random ones if None.
    """

    def __init__(self, model, folder: Path, rows: tuple[list, list] | None = None):
        from tfcompress.artifact import TensorSpec
        from tfcompress.compress import lower
        from tfcompress.compress.models import load
        from tfcompress.export import tflite

        self.model, self.folder, self.lower = model, folder, lower
        folder.mkdir(parents=True, exist_ok=True)
        try:
            loaded = load.describe(model, {}, [])
            self.free, self.outputs = loaded.inputs, loaded.outputs
        except Exception:  # a model without a description of its inputs
            import zoo

            self.free, self.outputs = zoo.specs(model)
        self.inputs = [TensorSpec(s.name, (1, *[d or 12 for d in s.shape[1:]]), s.dtype)
                       for s in self.free]  # fmt: skip
        self.names = {side: [s.name for s in getattr(self, side)] for side in SIDES}
        if rows is None:
            self.check = tflite._reference(model, self.inputs, self.outputs, lower, JUDGED)
            calibration = self._random()
        else:
            calibration, judged = rows
            self.check = tflite._reference(model, self.inputs, self.outputs, lower, given=judged)
        self.samples = self._save(calibration)
        # Stateful layers go on from where the row before ended, a runtime starts anew.
        self.judged = 1 if tflite._states(model) else len(self.check[0][0])

    def _random(self) -> list:
        import numpy as np

        from tfcompress.export import tflite

        whole = [a for a in self.check[0] if a.dtype.kind in "iu"]
        high = 2 if whole and max(a.max() for a in whole) < 2 else tflite._highest_index(self.model)
        rng = np.random.default_rng(1)
        return [tflite._random(rng, (CALIBRATED, *s.shape[1:]), s.dtype, high)
                for s in tflite._narrow(self.inputs)]  # fmt: skip

    def _save(self, arrays: list) -> Path:
        import numpy as np

        folder = self.folder / "samples"
        (folder / "inputs").mkdir(parents=True, exist_ok=True)
        for i, array in enumerate(arrays):
            np.save(folder / "inputs" / f"{i}.npy",
                    array.astype("S") if array.dtype == object else array)  # fmt: skip
        about = {"count": len(arrays[0]), "names": self.names["inputs"], "random": False}
        (folder / "samples.json").write_text(json.dumps(about))
        return folder

    @cached_property
    def tflite(self) -> dict:
        from tfcompress.export import tflite

        return self._converted(tflite.to_tflite, "float.tflite", self.inputs)

    @cached_property
    def onnx(self) -> dict:
        from tfcompress.export import onnx

        return self._converted(onnx.to_onnx, "float.onnx", self.free)

    def _converted(self, convert, name: str, inputs) -> dict:
        path = self.folder / name
        try:
            told = convert(self.model, path, inputs=inputs, outputs=self.outputs, check=self.check,
                           lower=self.lower, progress=lambda *_: None)  # fmt: skip
        except Exception as error:
            return {"error": _said(error)}
        return {"path": path, "route": told["route"]}

    def artifact(self, target) -> dict:
        """`{"path", "route", "wider"}` of a target's artifact, or `{"error"}`."""
        if target.format == "tfjs":
            from tfcompress.export import tfjs

            try:
                told = tfjs.to_tfjs(self.model, self.folder / target.name, inputs=self.inputs,
                                    outputs=self.outputs, lower=self.lower,
                                    quantization=target.quantization)  # fmt: skip
            except Exception as error:
                return {"error": _said(error)}
            return {"path": self.folder / target.name, "route": told["route"]}
        made = getattr(self, target.format)
        if "error" in made:
            return made
        if target.format == "onnx":
            from tfcompress.compress.onnx import quantize
        else:
            from tfcompress.compress.tflite import quantize
        told = quantize.run({"float": str(made["path"]), "samples": str(self.samples),
                             "names": self.names, "out": str(self.folder),
                             "targets": [target.to_dict()]}, lambda *_: None)  # fmt: skip
        told = told["targets"][target.name]
        if "error" in told:
            return {"error": told["error"]["message"]}
        wider = {"wider": len(told["fallbacks"])} if told["fallbacks"] else {}
        return {"path": Path(told["path"]), "route": made["route"], **wider}

    def judge(self, name: str, pages: Pages) -> dict:
        """`{"snr_db", "route", "wider"}` of the artifact in its runtime, or why there is none."""
        from tfcompress import targets

        target = targets.load(name)
        try:
            made = self.artifact(target)
        except Exception as error:
            return {"error": _said(error)}
        if "error" in made:
            return made
        try:
            snr = self._snr(pages.run(target, made.pop("path"), self))
        except Exception as error:
            said = _said(error)
            late = re.search(r"gave no answer.* in (\d+) s", said)
            return {"late": int(late[1])} if late else {"error": f"when run: {said}"}
        return {"snr_db": "inf" if snr == math.inf else round(max(snr, -999.0), 1), **made}

    def _snr(self, got: list) -> float:
        import numpy as np

        from tfcompress.export.tflite import snr_db

        rows = len(self.check[0][0])  # an output may have no dimension for them
        wanted = [np.ravel(w)[:w.size * self.judged // rows] for w in self.check[1]]
        return min(snr_db(w, g) for w, g in zip(wanted, got, strict=True))


class Pages:
    """Runs artifacts; in browsers one page for each runtime, opened anew after a failure."""

    def __init__(self):
        self.sessions: dict = {}

    def run(self, target, path: Path, trial: Trial) -> list:
        """The artifact's outputs for the trial's judged rows."""
        from tfcompress.benchmark.browser import BrowserSession
        from tfcompress.benchmark.runtimes import _order, open_session

        rows = [a[:trial.judged] for a in trial.check[0]]
        if not target.backends:
            return open_session(str(path), target.runtime, 2, trial.names).run(rows)
        kind = target.runtime.removesuffix("-js"), target.backends[0]
        session = self.sessions.pop(kind, None)
        try:
            if session is None:
                session = BrowserSession(str(path), *kind)
            else:
                session.open(str(path))
            for side, what in enumerate(SIDES):
                have = [s["name"] for s in getattr(session, what)]
                session.order(side, _order(trial.names[what], have, what, str(path)))
            outputs = session.run(rows)
        except BaseException:
            if session is not None:
                session.close()
            raise
        self.sessions[kind] = session
        return outputs

    def close(self) -> None:
        for session in self.sessions.values():
            session.close()


def construct(name: str, folder: Path) -> Trial:
    """The small model of that name in `tests/zoo.py`."""
    sys.path.insert(0, str(TESTS))
    import zoo

    return Trial(zoo.build(name, zoo.models()[name]), folder)


def application(name: str, folder: Path, size: int | None = None) -> Trial:
    """A model of `keras.applications`, with images of `size` pixels a side if given.

    Weights are random (seeded), but for what makes a net of random weights die or go wild.
    """
    import keras
    import numpy as np

    keras.utils.set_random_seed(zlib.crc32(name.encode()) % 2**31)
    given = {"input_shape": (size, size, 3)} if size else {}
    model = getattr(keras.applications, name)(weights=None, **given)
    count = CALIBRATED_IMAGES + JUDGED_IMAGES
    x = _images(np.random.default_rng(0), count, model.inputs[0].shape[1])
    first = "".join(layer.name for layer in model.layers[:3])
    if not ("escaling" in first or "prestem_normalization" in first):
        x = x / 127.5 - 1
    alive(model, x[:CALIBRATED_IMAGES])
    return Trial(model, folder, ([x[:CALIBRATED_IMAGES]], [x[CALIBRATED_IMAGES:]]))


def _images(rng, count: int, side: int):
    """Noise in squares of 4 to 32 pixels, of many colours, brightnesses and contrasts."""
    import numpy as np

    found = []
    for i in range(count):
        block = (4, 8, 16, 32)[i % 4]
        noise = rng.uniform(-1, 1, (-(-side // block), -(-side // block), 3))
        noise = noise.repeat(block, 0).repeat(block, 1)[:side, :side]
        found.append(rng.uniform(64, 192, 3) + rng.uniform(20, 128, 3) * noise)
    return np.clip(found, 0, 255).astype(np.float32)


def alive(model, x) -> None:
    """Let `model` behave as a trained one: it answers to `x`, and not to every rounding.

    BatchNormalization gets the statistics of `x`, and shifts of 0 to 2: with the initial 0, which
    stops half of all values, each layer would multiply the noise of those before (rounding the
    weights to 8 bits alone leaves 12 dB of MobileNet). ConvNeXt's branches get their weight.
    """
    import keras

    norms = []
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            norms.append(layer)
            if layer.center:
                layer.beta.assign(keras.random.uniform(layer.beta.shape, 0, 2))
        elif type(layer).__name__ == "LayerScale":  # starts at 1e-6: nothing gets through
            layer.gamma.assign(keras.random.uniform(layer.gamma.shape, 0.1, 1.0))
    kept = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(x, training=True)
    for layer, momentum in zip(norms, kept, strict=True):
        layer.momentum = momentum


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or repr(error)).split())[:600]


@contextlib.contextmanager
def pages():
    """A `Pages` that is closed in the end."""
    with contextlib.closing(Pages()) as found:
        yield found
