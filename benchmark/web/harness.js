// The page's side of benchmark/browser.py: fetches commands, runs them, posts the answers.
// A message is a length (4 bytes, little endian), that many bytes of JSON, and raw tensor data.

const asked = new URLSearchParams(location.search);
const driver = await import(`/${asked.get("runtime")}.js`);
const headers = {"X-Token": asked.get("token")};

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return [head, buffer.slice(4 + length)];
}

function pack(head, parts = []) {
  const text = new TextEncoder().encode(JSON.stringify(head));
  const size = new Uint8Array(4);
  new DataView(size.buffer).setUint32(0, text.length, true);
  return new Blob([size, text, ...parts]);
}

const ARRAYS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array, int8: Int8Array,
                bool: Uint8Array};

function tensors(head, data) {
  let at = 0;
  return head.inputs.map(({dtype, shape}) => {
    const count = shape.reduce((a, b) => a * b, 1);
    const bytes = count * ARRAYS[dtype].BYTES_PER_ELEMENT;
    const array = new ARRAYS[dtype](data.slice(at, at + bytes));
    at += bytes;
    return {dtype, shape, array};
  });
}

let model;
let ready;

const commands = {
  async load(head) {
    if (model) driver.unload(model);
    model = null;
    const before = performance.now();
    model = await driver.load(head.model, head.backend);
    return [{...driver.describe(model), load_ms: performance.now() - before}];
  },
  async run(head, data) {
    const outputs = await driver.run(model, tensors(head, data));
    const specs = outputs.map(({dtype, shape}) => ({dtype, shape}));
    return [{outputs: specs, bytes: outputs.map((o) => o.array.byteLength)},
            outputs.map((o) => o.array)];
  },
  async ready(head, data) {
    ready = tensors(head, data);
    const end = performance.now() + 1000 * head.seconds;
    const once = performance.now();
    await driver.run(model, ready);
    const ms = performance.now() - once;
    while (performance.now() < end) await driver.run(model, ready);
    return [{ms}];
  },
  async burst(head) {
    const ms = [];
    for (let i = 0; i < head.count; i++) {
      const before = performance.now();
      await driver.run(model, ready);
      ms.push(performance.now() - before);
    }
    return [{ms}];
  },
};

while (true) {
  const reply = await fetch("/command", {cache: "no-store", headers});
  if (reply.status === 204) continue;  // nothing to do yet
  if (!reply.ok) break;
  const [head, data] = unpack(await reply.arrayBuffer());
  let answer;
  try {
    answer = await commands[head.command](head, data);
  } catch (error) {
    answer = [{error: String(error && error.message || error).slice(0, 500)}];
  }
  await fetch("/answer", {method: "POST", headers, body: pack(...answer)});
}
