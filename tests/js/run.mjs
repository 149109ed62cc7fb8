// node run.mjs FOLDER: the calls of FOLDER/calls.json, through woodpecker.mjs. Each is {module, rows, wide, method};
// the results of call i go to FOLDER/i.bin, the texts of errors to FOLDER/errors.json.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { load } from "../../woodpecker/runtime/js/woodpecker.mjs";

const folder = process.argv[2];
const models = new Map();
const errors = {};
for (const [i, call] of JSON.parse(await readFile(join(folder, "calls.json"))).entries()) {
  try {
    if (!models.has(call.module)) models.set(call.module, await load(await readFile(join(folder, call.module))));
    const { buffer, byteOffset, byteLength } = await readFile(join(folder, call.rows));
    const bytes = buffer.slice(byteOffset, byteOffset + byteLength);
    const rows = call.wide ? new Float64Array(bytes) : new Float32Array(bytes);
    await writeFile(join(folder, `${i}.bin`), models.get(call.module).predict(rows, call.method));
  } catch (error) {
    errors[i] = `${error.name}: ${error.message}`;
  }
}
await writeFile(join(folder, "errors.json"), JSON.stringify(errors));
