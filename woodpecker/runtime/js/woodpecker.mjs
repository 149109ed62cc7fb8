/**
 * Predictions of a woodpecker model that was compiled to WebAssembly. It needs nothing but this file, and an engine with
 * ES modules and 128-bit vectors: it is tested in Node.js 20, and was run in Node.js 18 and 24, Deno 2.9 and
 * Chromium 156.
 *
 *     import { load } from "./woodpecker.mjs";
 *
 *     const model = await load(await (await fetch("model.wasm")).arrayBuffer());
 *     const scores = model.predict(new Float32Array([0.5, NaN, 3]));  // one row of three features
 *
 * SPDX-License-Identifier: Apache-2.0
 */

const ABI_VERSION = 1;
const MAX_BYTES = 2 ** 32 - 1;
const CHUNK_BYTES = 1 << 22;
const CHUNK_ROWS = 1024;
const MOST_CHUNK_BYTES = 2 ** 28;
const NEEDED = ["malloc", "free", "_initialize", "wp_check", "wp_predict", "wp_scratch_size", "wp_manifest"];

/** The bytes are no model, are one of another version, or need what this engine has not. */
export class ArtifactError extends Error {
  name = "ArtifactError";
}

/** Rows or a method that the model does not take. */
export class InputError extends Error {
  name = "InputError";
}

/** The memory of a module ends at 4 GiB, or where the engine says so. */
export class MemoryError extends Error {
  name = "MemoryError";
}

/**
 * Load a model.
 *
 * @param {BufferSource | WebAssembly.Module} source The content of the .wasm file: an ArrayBuffer, a typed array or a
 *   Buffer of Node.js; or a module that is compiled already.
 * @returns {Promise<Model>}
 * @throws {ArtifactError} It is no such file, its header, directories or manifest are damaged (damage in the numbers of
 *   the model or in its code is not noticed), or this engine lacks 128-bit vectors.
 * @throws {MemoryError} The engine has no memory for it.
 */
export async function load(source) {
  let instance;
  try {
    const module = kind(source) === "WebAssembly.Module" ? source : await WebAssembly.compile(source);
    instance = await WebAssembly.instantiate(module, {});
  } catch (error) {
    if (error instanceof RangeError) {
      throw new MemoryError(`the engine has no memory for the module: ${error.message}`, { cause: error });
    }
    throw new ArtifactError(`this is no WebAssembly module that runs here: ${error.message}`, { cause: error });
  }
  const { wp_abi_version } = instance.exports;
  if (typeof wp_abi_version !== "function") throw new ArtifactError("this module holds no woodpecker model");
  const version = wp_abi_version();
  if (version !== ABI_VERSION) {
    throw new ArtifactError(
      `the model has ABI version ${version}, and this woodpecker.mjs calls ${ABI_VERSION}: use the one it came with`,
    );
  }
  if (NEEDED.some((name) => typeof instance.exports[name] !== "function")) {
    throw new ArtifactError("this module holds no woodpecker model, or one of another version");
  }
  instance.exports._initialize();
  if (instance.exports.wp_check() !== 0) throw new ArtifactError("the model is damaged: its checksum is wrong");
  return new Model(instance.exports);
}

/** A loaded model. It may be used for any number of predictions; its memory goes with it. */
export class Model {
  /** @type {Record<string, any>} */
  #exports;
  #widths;
  #scratch;
  #scratchSize;

  /** @param {WebAssembly.Exports} exports Those of a module: `load` makes them. */
  constructor(exports) {
    const wasm = /** @type {any} */ (exports);
    this.#exports = wasm;
    /** @type {number} Columns of the rows. */
    this.nFeatures = wasm.wp_n_features();
    /** @type {number} Width of a row of raw scores. */
    this.nOutputs = wasm.wp_n_outputs();
    /** @type {number} Trees. */
    this.nTrees = wasm.wp_n_trees();
    /** @type {"float32" | "float64"} The type of raw scores and of what the source model's methods return. */
    this.outputType = wasm.wp_output_type() === 1 ? "float32" : "float64";
    const names = Array.from({ length: wasm.wp_n_methods() }, (_, i) => this.#text(wasm.wp_method_name(i)));
    /** @type {string[]} What `predict` takes: "raw", "apply" and the methods of the source model. */
    this.methods = ["raw", "apply", ...names];
    this.#widths = [this.nOutputs, this.nTrees, ...names.map((_, i) => wasm.wp_method_width(i))];
    const start = wasm.wp_manifest() >>> 0;
    /** @type {any} What the model says of itself: see docs/artifact-format.md. */
    this.manifest = JSON.parse(decoded(new Uint8Array(wasm.memory.buffer, start, wasm.wp_manifest_size() >>> 0)));
    /** @type {string[] | null} (nFeatures) names of the columns, where the model has them. */
    this.featureNames = this.manifest.input.feature_names;
    Object.freeze(this.methods);
    this.#scratchSize = wasm.wp_scratch_size() >>> 0;
    this.#scratch = this.#allocate(this.#scratchSize);
  }

  /**
   * Predict rows. A missing value is NaN; a categorical feature is its code.
   *
   * @param {Float32Array | Float64Array} rows (n, nFeatures) values, a row after the other. float64 values are compared
   *   as the source library compares them.
   * @param {string} [method] "raw": raw scores (n, nOutputs), with the bits of the source library. "apply": leaf ids
   *   (n, nTrees), int32. Else a method of the source model (`methods`), (n, `width(method)`): where it returns labels,
   *   the number of the class among those of `manifest.classes`.
   * @returns {Float32Array | Float64Array | Int32Array} Results, a row after the other, of `outputType`, or int32.
   * @throws {InputError} The rows have another type, or their length is no multiple of nFeatures; or the method is
   *   unknown.
   * @throws {MemoryError} The module can't have that much memory.
   */
  predict(rows, method = "raw") {
    const given = kind(rows);
    const wide = given === "Float64Array";
    if (!wide && given !== "Float32Array") {
      throw new InputError(`rows must be a Float32Array or a Float64Array, row after row; found ${given}`);
    }
    if (detached(rows.buffer)) {
      throw new InputError("the rows' buffer was transferred to elsewhere, and holds nothing any more");
    }
    if (rows.length % this.nFeatures) {
      throw new InputError(`rows have ${this.nFeatures} features each, and ${rows.length} values are no whole rows`);
    }
    const width = this.width(method);
    const n = rows.length / this.nFeatures;
    const Results = method === "apply" ? Int32Array : this.outputType === "float32" ? Float32Array : Float64Array;
    const results = this.#results(Results, n * width);
    // All memory that a module ever had stays its own: large inputs go through in parts.
    const bytes = Math.max(rows.BYTES_PER_ELEMENT * this.nFeatures, Results.BYTES_PER_ELEMENT * width);
    const usual = Math.max(CHUNK_ROWS, Math.floor(CHUNK_BYTES / bytes));
    const most = Math.max(1, Math.min(usual, Math.floor(MOST_CHUNK_BYTES / bytes)));
    const place = this.methods.indexOf(method);
    const what = place < 2 ? -1 - place : place - 2;
    const wasm = this.#exports;
    const chunk = Math.min(n, most);
    const outSize = chunk * width * Results.BYTES_PER_ELEMENT;
    let X = 0;
    let out = 0;
    try {
      X = this.#allocate(chunk * this.nFeatures * rows.BYTES_PER_ELEMENT);
      out = this.#allocate(outSize);
      for (let first = 0; first < n; first += chunk) {
        const count = Math.min(chunk, n - first);
        const part = rows.subarray(first * this.nFeatures, (first + count) * this.nFeatures);
        // A view of the memory ends when that grows: each is made after all memory is there.
        new (wide ? Float64Array : Float32Array)(wasm.memory.buffer, X, part.length).set(part);
        const status = wasm.wp_predict(
          what, wide ? 2 : 1, X, count, this.nFeatures, out, outSize, this.#scratch, this.#scratchSize,
        );
        if (status !== 0) throw new InputError(this.#text(wasm.wp_status_message(status)));
        results.set(new Results(wasm.memory.buffer, out, count * width), first * width);
      }
    } finally {
      wasm.free(X);
      wasm.free(out);
    }
    return results;
  }

  /**
   * Elements of a row of a method's results.
   *
   * @param {string} method
   * @returns {number}
   * @throws {InputError} The method is unknown.
   */
  width(method) {
    const place = this.methods.indexOf(method);
    if (place < 0) throw new InputError(`the model has no method ${typeof method === "string" ? method : kind(method)}; it has ${this.methods.join(", ")}`);
    return this.#widths[place];
  }

  /**
   * @param {Float32ArrayConstructor | Float64ArrayConstructor | Int32ArrayConstructor} Results
   * @param {number} length
   */
  #results(Results, length) {
    try {
      return new Results(length);
    } catch (error) {
      throw new MemoryError(`there can't be ${length} results in one array: predict fewer rows`, { cause: error });
    }
  }

  /** @param {number} bytes */
  #allocate(bytes) {
    const address = bytes > MAX_BYTES ? 0 : this.#exports.malloc(Math.max(bytes, 1)) >>> 0;
    if (address === 0) throw new MemoryError(`the module can't have ${bytes} more bytes of memory`);
    return address;
  }

  /** @param {number} start A text that ends in a 0. */
  #text(start) {
    const memory = new Uint8Array(this.#exports.memory.buffer);
    const begin = start >>> 0;
    return decoded(memory.subarray(begin, memory.indexOf(0, begin)));
  }
}

/** @param {Uint8Array} bytes */
function decoded(bytes) {
  return new TextDecoder().decode(bytes);
}

/** @param {ArrayBufferLike} buffer Whether it was transferred; Node.js 20 has no `buffer.detached` to say so. */
function detached(buffer) {
  try {
    new Uint8Array(buffer, 0, 0);
    return false;
  } catch {
    return true;
  }
}

/** @param {any} value What it is, also where it comes from another window. */
function kind(value) {
  return ArrayBuffer.isView(value) || typeof value === "object"
    ? Object.prototype.toString.call(value).slice(8, -1)
    : typeof value;
}
