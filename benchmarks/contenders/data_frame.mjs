// Pyodide in Node or Deno: a process that evaluates code with packages from local wheels.
// node data_frame.mjs FOLDER CODE WHEEL …; FOLDER holds node_modules/pyodide.
import process from "node:process";
import { pathToFileURL } from "node:url";

const [folder, code, ...wheels] = process.argv.slice(2);
const indexURL = `${folder}/node_modules/pyodide/`;
const { loadPyodide } = await import(pathToFileURL(`${indexURL}pyodide.mjs`));
// Pyodide would find its folder by a stack trace, in which Deno names the source files of its source map.
const pyodide = await loadPyodide({ indexURL });
await pyodide.loadPackage(wheels, { messageCallback() {} });
console.log(pyodide.runPython(code));
