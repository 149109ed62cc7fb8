// node page.mjs FOLDER: the script of FOLDER/index.html, with as much of a browser as it takes; prints what it shows.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const shown = {};
globalThis.document = { getElementById: () => shown };
globalThis.fetch = async (name) => new Response(await readFile(join(folder, name)));
const [, script] = /<script type="module">(.*)<\/script>/s.exec(await readFile(join(folder, "index.html"), "utf8"));
await writeFile(join(folder, "page.mjs"), script);
await import(pathToFileURL(join(folder, "page.mjs")));
console.log(shown.textContent);
