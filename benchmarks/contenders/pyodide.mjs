// Pyodide in Node or Deno, as its documentation runs it: the same interpreter as ours with a JavaScript engine around it.
// node pyodide.mjs FOLDER GROUP TEXT_FILE WORKLOADS_FILE [quick]; FOLDER holds node_modules/pyodide.
import { readFileSync } from "node:fs";
import process from "node:process";
import { pathToFileURL } from "node:url";

const [folder, group, textFile, workloadsFile, size, rounds] = process.argv.slice(2);
const indexURL = `${folder}/node_modules/pyodide/`;
const { loadPyodide } = await import(pathToFileURL(`${indexURL}pyodide.mjs`));
const now = () => performance.now() / 1000;
const tell = (figures) => console.log(JSON.stringify(figures));
const load = () => loadPyodide({ indexURL, stdout: (line) => console.log(line) });
const timed = (action) => {
  const started = now();
  action();
  return now() - started;
};

const groups = {
  async hello() {
    (await load()).runPython("print('hi')");
  },
  async fresh() {
    const times = [];
    for (let i = 0; i < 2; i++) {
      const started = now();
      await load();
      times.push(now() - started);
    }
    tell({ fresh: times });
  },
  async exec() {
    const pyodide = await load();
    const first = timed(() => pyodide.runPython("1 + 1"));
    const later = Array.from({ length: 300 }, () => timed(() => pyodide.runPython("1 + 1")));
    tell({ first_exec: [first], later_exec: later });
  },
  async memory() {
    await load();
    const before = process.memoryUsage().rss;
    const kept = [await load(), await load()];
    tell({ idle_memory: [(process.memoryUsage().rss - before) / kept.length] });
  },
  async call() {
    const pyodide = await load();
    pyodide.globals.set("back", (value) => value);
    const loop = () => pyodide.runPython("for i in range(500): back(i)");
    tell({ host_call: Array.from({ length: 10 }, () => timed(loop) / 500) });
  },
  async text() {
    const pyodide = await load();
    const before = process.memoryUsage().rss;
    const seconds = timed(() => {
      pyodide.FS.writeFile("/big.txt", readFileSync(textFile));
      pyodide.runPython("text = open('/big.txt').read()");
    });
    tell({ text_seconds: [seconds], text_memory: [process.resourceUsage().maxRSS * 1024 - before] });
  },
  async cpu() {
    const pyodide = await load();
    pyodide.runPython(`SIZE, ROUNDS = ${size}, ${rounds}\n` + readFileSync(workloadsFile, "utf8"));
  },
};
if (group in groups) await groups[group]();
