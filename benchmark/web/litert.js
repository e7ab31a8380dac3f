// LiteRT.js: a .tflite in the browser, on WebAssembly or WebGPU.
import {loadLiteRt, loadAndCompile, getWebGpuDevice, Tensor} from "@litertjs/core";
import {named} from "/adapter.js";

let runtime;

export async function load(url, backend) {
  runtime ??= loadLiteRt("/packages/@litertjs/core/wasm/", {jspi: backend === "webgpu"});
  await runtime;
  const model = await loadAndCompile(url, {accelerator: backend});
  let adapter = "";
  if (backend === "webgpu") {
    adapter = named((await getWebGpuDevice())?.adapterInfo);
  }
  return {model, backend, adapter};
}

export function describe({model, backend, adapter}) {
  const told = ({name, dtype, shape}) => ({name, dtype, shape: Array.from(shape)});
  return {
    backend: backend === "wasm" || model.isFullyAccelerated ? backend : `${backend} and wasm`,
    adapter,
    inputs: model.getInputDetails().map(told),
    outputs: model.getOutputDetails().map(told),
  };
}

export function unload({model}) {
  model.delete();
}

export async function run({model, backend}, inputs) {
  const fed = inputs.map(({array, shape}) => new Tensor(array, shape));
  const results = await model.run(fed);
  const outputs = [];
  for (const result of results) {
    const here = result.accelerator === "wasm" ? result : await result.moveTo("wasm");
    outputs.push({dtype: here.type.dtype, shape: Array.from(here.type.layout.dimensions),
                  array: here.toTypedArray().slice()});
    here.delete();
  }
  for (const tensor of fed) if (!tensor.deleted) tensor.delete();
  return outputs;
}
