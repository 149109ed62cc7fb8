// node webassembly.mjs TURN_MS ROWS.f32 CHECKED BATCHES MODULE ...: writes the raw scores of the first CHECKED rows to
// MODULE.raw, times the modules in turns for each batch, and prints for each of them, as JSON, batch -> ns per row of
// each turn.
import { readFile, writeFile } from "node:fs/promises";
import process from "node:process";

import { load } from "../woodpecker/runtime/js/woodpecker.mjs";

const [turn, rowsFile, checked, batches, ...modules] = process.argv.slice(2);
const { buffer, byteOffset, byteLength } = await readFile(rowsFile);
const rows = new Float32Array(buffer.slice(byteOffset, byteOffset + byteLength));
const models = [];
for (const path of modules) models.push(await load(await readFile(path)));
const times = modules.map(() => ({}));
const width = models[0].nFeatures;
const total = rows.length / width;
const ROUNDS = 9;
let next = 0;

for (const [i, model] of models.entries()) {
  await writeFile(`${modules[i]}.raw`, model.predict(rows.subarray(0, Number(checked) * width)));
}

/** ns of CPU time per row of calls that last a turn, each with rows that follow those of the one before. */
function timed(model, batch) {
  const [begin, before] = [performance.now(), process.cpuUsage()];
  let calls = 0;
  do {
    if (next + batch > total) next = 0;
    model.predict(rows.subarray(next * width, (next + batch) * width));
    next += batch;
    calls++;
  } while (performance.now() - begin < Number(turn));
  const { user, system } = process.cpuUsage(before);
  return ((user + system) * 1000) / (calls * batch);
}

for (const batch of batches.split(",").map(Number)) {
  for (const model of models) timed(model, batch); // the engine compiles what is hot
  for (let round = 0; round < ROUNDS; round++) {
    models.forEach((model, i) => (times[i][batch] ??= []).push(timed(model, batch)));
  }
}
console.log(JSON.stringify(times));
