// Generated beside model.json: loads it once, and runs it on typed arrays.
// The page loads TensorFlow.js first (see index.html); with a bundler, import it instead.

export const about = ABOUT;
let model;

/** Load the model; `backend` is "wasm", "webgl" or "webgpu". */
export async function load(backend = "webgl") {
  await tf.setBackend(backend);
  await tf.ready();
  model = await tf.loadGraphModel(new URL("./model.json", import.meta.url).href);
}

/** One typed array per input of `about.inputs`, in its order; gives one per output. */
export async function predict(arrays) {
  const kinds = {float32: "float32", bool: "bool"};  // every other number is an int32 here
  const fed = about.inputs.map(({shape, dtype}, i) =>
      tf.tensor(arrays[i], shape, kinds[dtype] || "int32"));
  const named = Object.fromEntries(about.inputs.map(({tensor}, i) => [tensor, fed[i]]));
  const found = await model.executeAsync(named, about.outputs.map(({tensor}) => tensor));
  const results = Array.isArray(found) ? found : [found];
  const outputs = await Promise.all(results.map((t) => t.data()));
  tf.dispose([...fed, ...results]);
  return outputs;
}
