// node wasi.mjs PROGRAM.wasm [ARGUMENT ...]: a program for WASI, with the standard streams and the working folder.
import { readFile } from "node:fs/promises";
import process from "node:process";
import { WASI } from "node:wasi";

const [program, ...given] = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args: [program, ...given], preopens: { ".": "." }, returnOnExit: true });
const module = await WebAssembly.compile(await readFile(program));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));
