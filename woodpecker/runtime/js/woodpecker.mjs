/**
 * Predictions of a woodpecker model that was compiled to WebAssembly: in browsers, Node.js 18 or later, Deno, and all
 * that runs ES modules. It needs nothing but this file.
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
 * @throws {ArtifactError} It is no such file, is damaged, or this engine lacks 128-bit vectors.
 */
export async function load(source) {
  let instance;
  try {
    const module = source instanceof WebAssembly.Module ? source : await WebAssembly.compile(source);
    instance = await WebAssembly.instantiate(module, {});
  } catch (error) {
    throw new ArtifactError(`this is no WebAssembly module that runs here: ${error.message}`, { cause: error });
  }
  const version = instance.exports.wp_abi_version?.();
  if (version === undefined) throw new ArtifactError("this module holds no woodpecker model");
  if (version !== ABI_VERSION) {
    throw new ArtifactError(
      `the model has ABI version ${version}, and this woodpecker.mjs calls ${ABI_VERSION}: use the one it came with`,
    );
  }
  instance.exports._initialize();
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
    const start = wasm.wp_manifest();
    /** @type {any} What the model says of itself: see docs/artifact-format.md. */
    this.manifest = JSON.parse(decoded(new Uint8Array(wasm.memory.buffer, start, wasm.wp_manifest_size())));
    /** @type {string[] | null} (nFeatures) names of the columns, where the model has them. */
    this.featureNames = this.manifest.input.feature_names;
    Object.freeze(this.methods);
    this.#scratchSize = wasm.wp_scratch_size();
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
    const wide = rows instanceof Float64Array;
    if (!wide && !(rows instanceof Float32Array)) {
      throw new InputError(`rows must be a Float32Array or a Float64Array, row after row; found ${kind(rows)}`);
    }
    if (rows.length % this.nFeatures) {
      throw new InputError(`rows have ${this.nFeatures} features each, and ${rows.length} values are no whole rows`);
    }
    const width = this.width(method);
    const n = rows.length / this.nFeatures;
    const Results = method === "apply" ? Int32Array : this.outputType === "float32" ? Float32Array : Float64Array;
    const results = new Results(n * width);
    // All memory that a module ever had stays its own: large inputs go through in parts.
    const bytes = Math.max(rows.BYTES_PER_ELEMENT * this.nFeatures, Results.BYTES_PER_ELEMENT * width);
    const most = Math.max(CHUNK_ROWS, Math.floor(CHUNK_BYTES / bytes));
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
    if (place < 0) throw new InputError(`the model has no method ${String(method)}; it has ${this.methods.join(", ")}`);
    return this.#widths[place];
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
    return decoded(memory.subarray(start, memory.indexOf(0, start)));
  }
}

/** @param {Uint8Array} bytes */
function decoded(bytes) {
  return new TextDecoder().decode(bytes);
}

/** @param {any} value */
function kind(value) {
  return value?.constructor?.name ?? String(value);
}
