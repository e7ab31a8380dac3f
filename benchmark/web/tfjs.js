// TensorFlow.js: a GraphModel on its wasm, webgl, webgpu or cpu backend.
import {named} from "/adapter.js";

const scripts = {
  wasm: "/packages/@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.min.js",
  webgpu: "/packages/@tensorflow/tfjs-backend-webgpu/dist/tf-backend-webgpu.min.js",
};

function script(src) {
  return new Promise((resolve, reject) => {
    const tag = document.createElement("script");
    Object.assign(tag, {src, onload: resolve, onerror: () => reject(new Error(`no ${src}`))});
    document.head.append(tag);
  });
}

let runtime;

async function start(backend) {
  await script("/packages/@tensorflow/tfjs/dist/tf.min.js");
  if (scripts[backend]) await script(scripts[backend]);
  if (backend === "wasm") tf.wasm.setWasmPaths("/packages/@tensorflow/tfjs-backend-wasm/dist/");
  if (!await tf.setBackend(backend)) throw new Error(`the backend ${backend} does not start`);
  await tf.ready();
}

export async function load(url, backend) {
  runtime ??= start(backend);
  await runtime;
  const model = await tf.loadGraphModel(url);
  let adapter = "";
  if (backend === "webgl") {
    const gl = document.createElement("canvas").getContext("webgl2");
    const info = gl && gl.getExtension("WEBGL_debug_renderer_info");
    adapter = info ? gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : "unknown";
  }
  if (backend === "webgpu") {
    adapter = named((await navigator.gpu.requestAdapter())?.info);
  }
  return {model, adapter};
}

export function describe({model, adapter}) {
  const told = ({name, dtype, shape}) => ({name, dtype: dtype || "float32", shape: shape || []});
  return {backend: tf.getBackend(), adapter, inputs: model.inputs.map(told),
          outputs: model.outputs.map(told), signature: model.modelSignature || null};
}

export function unload({model}) {
  model.dispose();
}

export async function run({model}, inputs) {
  const fed = inputs.map(({array, shape}, i) => tf.tensor(array, shape, model.inputs[i].dtype));
  const named = Object.fromEntries(model.inputs.map(({name}, i) => [name, fed[i]]));
  const found = await model.executeAsync(named);
  const results = Array.isArray(found) ? found : [found];
  const outputs = [];
  for (const result of results) {
    outputs.push({dtype: result.dtype, shape: result.shape, array: await result.data()});
    result.dispose();
  }
  tf.dispose(fed);
  return outputs;
}
