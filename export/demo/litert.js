// Generated beside model.tflite: loads it once, and runs it on typed arrays.
import {loadLiteRt, loadAndCompile, Tensor} from "@litertjs/core";

export const about = ABOUT;
const WASM = new URL("./node_modules/@litertjs/core/wasm/", import.meta.url).href;
let model;

/** Load the runtime and the model; `accelerator` is "wasm" or "webgpu". */
export async function load(accelerator = "wasm", wasm = WASM) {
  await loadLiteRt(wasm);
  model = await loadAndCompile(new URL("./model.tflite", import.meta.url).href, {accelerator});
}

/** One typed array per input of `about.inputs`, in its order; gives one per output. */
export async function predict(arrays) {
  const kinds = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
  const fed = Object.fromEntries(about.inputs.map(({name, shape, dtype}, i) =>
      [name, new Tensor(kinds[dtype].from(arrays[i]), shape)]));
  const results = await model.run(fed);
  const outputs = [];
  for (const {name} of about.outputs) {
    const here = await results[name].moveTo("wasm");
    outputs.push(here.toTypedArray().slice());
    here.delete();
  }
  for (const tensor of Object.values(fed)) if (!tensor.deleted) tensor.delete();
  return outputs;
}
