// Pyodide in a worker of Node or Deno that runs cells from stdin: node pyodide_cells.mjs FOLDER
// A line of JSON has `code` and `seconds`; the reply is one too. A cell that passes its deadline is interrupted, and a
// worker that goes on for a second ended; the next cell starts a new one.
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

async function work({ folder, interrupt }) {
  const indexURL = `${folder}/node_modules/pyodide/`;
  const { loadPyodide } = await import(pathToFileURL(`${indexURL}pyodide.mjs`));
  let said = [];
  const keep = (line) => said.push(line);
  const pyodide = await loadPyodide({ indexURL, stdout: keep, stderr: keep });
  pyodide.setInterruptBuffer(interrupt);
  parentPort.on("message", (code) => {
    said = [];
    interrupt[0] = 0;
    try {
      pyodide.runPython(code);
    } catch (error) {
      said.push(String(error?.message ?? error));
    }
    const text = said.join("\n");
    parentPort.postMessage({ said: text.slice(0, 100_000) + text.slice(-100_000), chars: text.length });
  });
  parentPort.postMessage("ready");
}

async function serve(folder) {
  const interrupt = new Uint8Array(new SharedArrayBuffer(1));
  let worker;
  const reply = () =>
    new Promise((resolve) => {
      const gone = (error) => {
        worker = undefined;
        resolve({ said: `the worker has ended: ${error}`, chars: 0 });
      };
      worker.removeAllListeners();
      worker.once("message", resolve);
      worker.once("error", gone);
      worker.once("exit", gone);
    });
  for await (const line of createInterface({ input: process.stdin })) {
    const { code, seconds } = JSON.parse(line);
    if (!worker) {
      worker = new Worker(fileURLToPath(import.meta.url), { workerData: { folder, interrupt } });
      await reply();
    }
    const timers = [
      setTimeout(() => (interrupt[0] = 2), seconds * 1000),
      setTimeout(() => worker?.terminate(), (seconds + 1) * 1000),
    ];
    const answer = reply();
    worker?.postMessage(code);
    console.log(JSON.stringify(await answer));
    timers.forEach(clearTimeout);
  }
  process.exit(0);
}

if (isMainThread) await serve(process.argv[2]);
else await work(workerData);
