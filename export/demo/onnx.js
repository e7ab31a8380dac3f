// Generated beside model.onnx: loads it once, and runs it on typed arrays.

export const about = ABOUT;
const KINDS = {float32: Float32Array, float64: Float64Array, int32: Int32Array, int8: Int8Array,
  uint8: Uint8Array, bool: Uint8Array};
let ort;
let model;

/** Load the runtime, whose files lie beside its script, and the model; "wasm" or "webgpu". */
export async function load(backend = "wasm") {
  ort = backend === "webgpu" ? await import("onnxruntime-web/webgpu")
                             : await import("onnxruntime-web/wasm");
  model = await ort.InferenceSession.create(new URL("./model.onnx", import.meta.url).href,
                                            {executionProviders: [backend]});
}

/** One typed array per input of `about.inputs`, in its order; gives one per output. */
export async function predict(arrays) {
  const fed = Object.fromEntries(about.inputs.map(({name, shape, dtype}, i) => {
    const values = dtype === "int64" ? BigInt64Array.from(arrays[i], BigInt)
                                     : KINDS[dtype].from(arrays[i]);
    const known = shape.reduce((product, n) => product * (n ?? 1), 1);
    const free = shape.indexOf(null);  // the first free size is what the values give
    const sizes = shape.map((n, at) => n ?? (at === free ? values.length / known : 1));
    return [name, new ort.Tensor(dtype, values, sizes)];
  }));
  const results = await model.run(fed);
  return about.outputs.map(({name}) => results[name].data);
}
