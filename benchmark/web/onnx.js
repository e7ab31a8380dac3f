// ONNX Runtime Web: an .onnx in the browser, on WebAssembly or WebGPU.
import {named} from "/adapter.js";

const DIST = "/packages/onnxruntime-web/dist/";
const BUNDLES = {wasm: "ort.wasm.bundle.min.mjs", webgpu: "ort.webgpu.bundle.min.mjs"};

let runtime;

async function start(backend) {
  if (!BUNDLES[backend]) throw new Error(`ONNX Runtime Web has no backend ${backend}`);
  const ort = await import(DIST + BUNDLES[backend]);
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  return ort;
}

export async function load(url, backend) {
  runtime ??= start(backend);
  const ort = await runtime;
  const options = {executionProviders: [backend]};
  let used = backend;
  let model;
  if (backend === "webgpu") {
    try {  // it refuses where an operation would be left to WebAssembly: that is how one learns it
      const extra = {session: {disable_cpu_ep_fallback: "1"}};
      model = await ort.InferenceSession.create(url, {...options, extra});
    } catch {
      used = "webgpu and wasm";
    }
  }
  model ??= await ort.InferenceSession.create(url, options);
  const device = backend === "webgpu" ? await ort.env.webgpu.device : null;
  return {ort, model, used, adapter: device ? named(device.adapterInfo) : ""};
}

export function describe({model, used, adapter}) {
  const told = ({name, type, shape}) =>
      ({name, dtype: type, shape: shape.map((n) => typeof n === "number" ? n : null)});
  return {backend: used, adapter, inputs: model.inputMetadata.map(told),
          outputs: model.outputMetadata.map(told)};
}

export function unload({model}) {
  return model.release();
}

export async function run({ort, model}, inputs) {
  const fed = Object.fromEntries(inputs.map(({array, shape}, i) => {
    const {name, type} = model.inputMetadata[i];
    const values = type === "int64" ? BigInt64Array.from(array, BigInt) : array;
    return [name, new ort.Tensor(type, values, shape)];
  }));
  const results = await model.run(fed);
  const outputs = model.outputNames.map((name) => {
    const {type, dims, data} = results[name];
    const wide = type === "int64";
    return {dtype: wide ? "int32" : type, shape: dims,
            array: wide ? Int32Array.from(data, Number) : data.slice()};
  });
  for (const tensor of [...Object.values(fed), ...Object.values(results)]) tensor.dispose();
  return outputs;
}
