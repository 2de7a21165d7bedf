"""Answers questions with dspy.RLM and its defaults: a JSON request a line on stdin, a JSON result for each.

Run it with the Python of a virtual environment that has `dspy` and `deno`, whose folder must be in PATH; it imports
nothing of this project. dspy.RLM has no limit of time. The number of its sub-calls is not limited here. The script that
it runs in Deno imports one function from the net; here a few lines take the place of that module, so that it runs
without. A request has `context`, or `text`, the path of a file that holds it; `sub_model`, `api_key` and `reply_tokens`
are optional.
"""

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

_READ_LINES = """
export async function* readLines(reader) {
  const decoder = new TextDecoder(), buffer = new Uint8Array(1 << 16);
  let rest = "";
  for (let size; (size = await reader.read(buffer)) !== null; ) {
    const lines = (rest + decoder.decode(buffer.subarray(0, size), { stream: true })).split("\\n");
    rest = lines.pop();
    yield* lines;
  }
}
"""
_IMPORTS = {"https://deno.land/std@0.186.0/io/mod.ts": f"data:text/javascript,{quote(_READ_LINES)}"}


def interpreter() -> Any:
    """Its own sandbox, which needs no net."""
    made: Any = importlib.import_module("dspy").PythonInterpreter()
    import_map = quote(json.dumps({"imports": _IMPORTS}))
    made.deno_command.insert(2, f"--import-map=data:application/json,{import_map}")
    return made


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of dspy.RLM; if it raises, the reason."""
    dspy: Any = importlib.import_module("dspy")
    options = {"api_base": request["base_url"], "api_key": request.get("api_key", "none"), "cache": False}
    if "reply_tokens" in request:
        options["max_tokens"] = request["reply_tokens"]
    model = dspy.LM(f"openai/{request['model']}", **options)
    runner = dspy.RLM(
        "context, question -> answer",
        max_iters=request["turns"],
        max_llm_calls=1_000_000,
        sub_lm=dspy.LM(f"openai/{request['sub_model']}", **options) if "sub_model" in request else None,
        interpreter_factory=interpreter,
    )
    context = Path(request["text"]).read_text("utf-8") if "text" in request else request["context"]
    began = time.perf_counter()
    with dspy.context(lm=model, track_usage=True):
        try:
            said = runner(context=context, question=request["question"])
        except Exception as error:  # noqa: BLE001 # whatever it raises is its result
            return {"answer": None, "ended": f"failed: {type(error).__name__}: {error}"[:200]}
    seconds = time.perf_counter() - began
    usage = [each for each in (said.get_lm_usage() or {}).values() if each]
    return {
        "answer": said.answer,
        "ended": "answered",
        "seconds": seconds,
        "prompt_tokens": sum(each.get("prompt_tokens") or 0 for each in usage),
        "completion_tokens": sum(each.get("completion_tokens") or 0 for each in usage),
        "trace": said.trajectory,
    }


if __name__ == "__main__":
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):  # keeps the output of its code off stdout
            result = answer(json.loads(line))
        print(json.dumps(result, default=str), flush=True)
