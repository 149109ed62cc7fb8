// node check.mjs MODEL: what woodpecker.mjs promises of a model with 5 features, with predict_proba (2 columns)
// and predict. Says "ok", or fails.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";

import { ArtifactError, InputError, MemoryError, Model, load } from "../../woodpecker/runtime/js/woodpecker.mjs";

const bytes = await readFile(process.argv[2]);
const memories = [];
const { instantiate } = WebAssembly;
WebAssembly.instantiate = async (...given) => {
  const instance = await instantiate(...given);
  memories.push(instance.exports.memory);
  return instance;
};

const model = await load(bytes);
assert(model instanceof Model);
assert.deepEqual([model.nFeatures, model.nOutputs, model.nTrees], [5, 1, 8]);
assert.equal(model.outputType, "float64");
assert.deepEqual([...model.methods].sort(), ["apply", "predict", "predict_proba", "raw"]);
assert.deepEqual(model.methods.slice(0, 2), ["raw", "apply"]);
assert.equal(model.featureNames, null);
assert.deepEqual(model.manifest.classes[0].values, ["no", "yes"]);
assert.deepEqual(["raw", "apply", "predict_proba", "predict"].map((name) => model.width(name)), [1, 8, 2, 1]);

// The same rows in every form, and in parts, give the same bits.
const n = 5000;
const rows = Float32Array.from({ length: 5 * n }, (_, i) => (i % 11 === 3 ? NaN : ((i * 7919) % 1000) / 250 - 2));
const raw = model.predict(rows);
assert(raw instanceof Float64Array && raw.length === n);
assert(new Set(raw).size > 50);
assert.deepEqual(model.predict(Float64Array.from(rows)), raw);
assert.deepEqual(Float64Array.from({ length: n }, (_, i) => model.predict(rows.subarray(5 * i, 5 * i + 5))[0]), raw);
const leaves = model.predict(rows, "apply");
assert(leaves instanceof Int32Array && leaves.length === 8 * n);
const proba = model.predict(rows, "predict_proba");
assert(proba.every((p) => p >= 0 && p <= 1) && proba.length === 2 * n);
const labels = model.predict(rows, "predict");
assert(labels.every((label, i) => label === Number(proba[2 * i + 1] > proba[2 * i])));
assert.equal(model.predict(new Float32Array(0)).length, 0);

// Sources of all kinds; each has a memory of its own.
const copy = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
for (const source of [copy, new Uint8Array(copy), await WebAssembly.compile(bytes)]) {
  assert.deepEqual((await load(source)).predict(rows), raw);
}

// Memory grows with a large call once, in parts, and is given back to the next one.
const many = new Float64Array(5 * 400000).fill(0.25);
assert(new Set(model.predict(many, "apply")).size <= 8);
model.predict(many);
const grown = memories[0].buffer.byteLength;
assert(grown < 30e6, `${grown}`);
for (let i = 0; i < 20; i++) model.predict(many, ["raw", "apply"][i % 2]);
for (let i = 0; i < 2000; i++) model.predict(rows.subarray(0, 5));
assert.equal(memories[0].buffer.byteLength, grown);
assert.deepEqual(model.predict(rows), raw);

// What is wrong is said, and changes nothing.
for (const wrong of [[1, 2, 3, 4, 5], new Int32Array(5), null, undefined, "rows", new Float32Array(5).buffer]) {
  assert.throws(() => model.predict(wrong), { name: "InputError", message: /rows must be a Float32Array/ });
}
assert.throws(() => model.predict(rows.subarray(0, 7)), { name: "InputError", message: /5 features each, and 7 val/ });
for (const wrong of ["nothing", "toString", "", null, 3]) {
  assert.throws(() => model.predict(rows, wrong), { name: "InputError", message: /has raw, apply, / });
  assert.throws(() => model.width(wrong), InputError);
}
for (const wrong of [bytes.subarray(0, 1000), new Uint8Array(0), new TextEncoder().encode("no module"), null, "path"]) {
  await assert.rejects(load(wrong), ArtifactError);
}
const start = bytes.indexOf(Buffer.from("\x93WOODPECKER", "latin1"));
const inManifest = bytes.indexOf('"n_features"');
assert(start > 0 && inManifest > start);
for (const at of [start + 17, start + 30, start + 50, start + 100, start + 200, start + 600, inManifest]) {
  const flipped = Uint8Array.from(bytes);
  flipped[at] ^= 4;
  await assert.rejects(load(flipped), { name: "ArtifactError", message: /damaged: its checksum is wrong/ });
}
const gone = new Float32Array(10);
structuredClone(gone.buffer, { transfer: [gone.buffer] });
assert.throws(() => model.predict(gone), { name: "InputError", message: /transferred/ });
const empty = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0);
await assert.rejects(load(empty), { name: "ArtifactError", message: /holds no woodpecker model/ });
await assert.rejects(load(await WebAssembly.compile(empty)), ArtifactError);

// Where there is no more memory, nothing is kept, and a later call works.
const { exports } = await instantiate(await WebAssembly.compile(bytes), {});
let calls = 0;
const freed = [];
const malloc = (size) => (++calls === 3 ? 0 : exports.malloc(size));
const free = (address) => void (freed.push(address), exports.free(address));
const short = new Model({ ...exports, malloc, free });
assert.throws(() => short.predict(rows), MemoryError);
assert(freed.length === 2 && freed[0] !== 0 && freed[1] === 0);
assert.deepEqual(short.predict(rows), raw);
assert.throws(() => new Model({ ...exports, malloc: () => 0 }), MemoryError);
const wide = new Model({ ...exports, wp_n_trees: () => 2 ** 31 - 1 });
assert.throws(() => wide.predict(rows, "apply"), { name: "MemoryError", message: /predict fewer rows/ });
console.log("ok");
