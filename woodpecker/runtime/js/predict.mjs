/**
 * Predictions of a woodpecker model in WebAssembly, in Node.js 18 or later:
 *
 *     node predict.mjs MODEL.wasm [METHOD] < rows.csv
 *
 * reads rows of numbers, one line a row and an empty field for a missing value, and prints a line of results for each.
 * METHOD is raw (the default), apply, or a method of the source model, such as predict_proba.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
import { readFile } from "node:fs/promises";
import { Buffer } from "node:buffer";
import process from "node:process";

import { load } from "./woodpecker.mjs";

const NUMBER = /^[-+]?(\d+\.?\d*(e[-+]?\d+)?|\.\d+(e[-+]?\d+)?|inf(inity)?|nan)$/i;
const SPECIAL = { inf: Infinity, infinity: Infinity, nan: NaN };

/** @param {string} field @returns {number | null} null: it is no number. */
function parsed(field) {
  const text = field.trim();
  if (text === "") return NaN;
  if (!NUMBER.test(text)) return null;
  const special = SPECIAL[text.replace(/^[-+]/, "").toLowerCase()];
  return special === undefined ? Number(text) : text.startsWith("-") ? -special : special;
}

/** @param {number} value @param {number} digits @returns {string} As C's printf("%.*g") writes it. */
function printed(value, digits) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value < 0 ? "-inf" : "inf";
  if (value === 0) return Object.is(value, -0) ? "-0" : "0";
  const [exact, power] = value.toExponential(60).split("e");
  let [mantissa, exponent] = value.toExponential(digits - 1).split("e");
  // JavaScript rounds what lies half way up, C to even.
  const rest = exact.slice(exact.indexOf(".") + digits);
  const last = Number(exact.replace(".", "").at(exact.indexOf(".") + digits - 2));
  if (/^50*$/.test(rest) && last % 2 === 0) [mantissa, exponent] = [exact.slice(0, exact.indexOf(".") + digits), power];
  mantissa = mantissa.includes(".") ? mantissa.replace(/\.?0+$/, "") : mantissa;
  const place = Number(exponent);
  if (place < -4 || place >= digits) {
    return `${mantissa}e${place < 0 ? "-" : "+"}${String(Math.abs(place)).padStart(2, "0")}`;
  }
  const sign = mantissa.startsWith("-") ? "-" : "";
  const all = mantissa.replace(/[-.]/g, "");
  if (place < 0) return `${sign}0.${"0".repeat(-place - 1)}${all}`;
  const whole = all.slice(0, place + 1).padEnd(place + 1, "0");
  return sign + whole + (all.length > place + 1 ? `.${all.slice(place + 1)}` : "");
}

/** @param {string} path @param {string} method */
async function main(path, method) {
  const model = await load(await readFile(path));
  const width = model.width(method);
  const parts = [];
  for await (const part of process.stdin) parts.push(part);
  const lines = Buffer.concat(parts).toString("utf8").split("\n");
  if (lines.at(-1) === "") lines.pop();
  const rows = new Float64Array(lines.length * model.nFeatures);
  for (const [i, line] of lines.entries()) {
    const values = line.split(",").map(parsed);
    if (values.length !== model.nFeatures || values.includes(null)) {
      throw new Error(`line ${i + 1} does not hold ${model.nFeatures} numbers`);
    }
    rows.set(values, i * model.nFeatures);
  }
  const results = model.predict(rows, method);
  const digits = results instanceof Float64Array ? 17 : 9;
  const text = (value) => (results instanceof Int32Array ? String(value) : printed(value, digits));
  let out = "";
  for (let i = 0; i < lines.length; i++) {
    out += `${Array.from(results.subarray(i * width, (i + 1) * width), text).join(",")}\n`;
  }
  await new Promise((done, failed) => {
    process.stdout.on("error", failed);
    process.stdout.write(out, done);
  });
}

const [path, method = "raw"] = process.argv.slice(2);
try {
  if (path === undefined) throw new Error("usage: predict.mjs MODEL.wasm [METHOD] < rows.csv");
  await main(path, method);
} catch (error) {
  process.stderr.write(`error: ${error.message}\n`);
  process.exitCode = 1;
}
