"""Answers questions with another engine, `PYTHON engines.py rlms|dspy`: requests and results are lines of JSON.

Run it with the Python of a virtual environment that has `rlms==0.1.3`, or `dspy` and `deno`, whose folder must then be
in PATH; it imports nothing of this project. A request has `context`, or `text`, the path of a file that holds it;
`sub_model`, `api_key` and `reply_tokens` are optional.
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


def answer_by_rlms(request: dict[str, Any], context: str) -> dict[str, Any]:
    """The answer of alexzhang13/rlm with its defaults. If it fails or runs out of time, its partial answer counts."""
    core: Any = importlib.import_module("rlm")
    exceptions: Any = importlib.import_module("rlm.utils.exceptions")
    logger = importlib.import_module("rlm.logger").RLMLogger()
    endpoint = {"base_url": request["base_url"], "api_key": request.get("api_key", "none")}
    options: dict[str, Any] = {}
    if "sub_model" in request:
        options["other_backends"] = ["openai"]
        options["other_backend_kwargs"] = [endpoint | {"model_name": request["sub_model"]}]
    if "reply_tokens" in request:
        options["sampling_args"] = {"max_tokens": request["reply_tokens"]}
    runner = core.RLM(
        backend="openai",
        backend_kwargs=endpoint | {"model_name": request["model"]},
        max_iterations=request["turns"],
        max_timeout=request["seconds"],
        logger=logger,
        **options,
    )
    began = time.perf_counter()
    try:
        completion = runner.completion(context, root_prompt=request["question"])
    except exceptions.TimeoutExceededError as error:
        return {"answer": error.partial_answer, "ended": "seconds", "trace": logger.get_trajectory()}
    except importlib.import_module("openai").APIError as error:
        # After the last turn its request ends in two assistant messages, which llama.cpp refuses.
        partial = runner._best_partial_answer  # noqa: SLF001 # not in the error
        return {"answer": partial, "ended": f"failed: {error}"[:200], "trace": logger.get_trajectory()}
    seconds = time.perf_counter() - began
    usage = completion.usage_summary
    return {
        "answer": completion.response,
        "ended": "answered",
        "seconds": seconds,
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": usage.total_output_tokens,
        "trace": completion.metadata,
    }


def interpreter() -> Any:
    """Its own sandbox. The script that it runs in Deno imports a module from the net; `_READ_LINES` takes its place."""
    made: Any = importlib.import_module("dspy").PythonInterpreter()
    import_map = quote(json.dumps({"imports": _IMPORTS}))
    made.deno_command.insert(2, f"--import-map=data:application/json,{import_map}")
    return made


def answer_by_dspy(request: dict[str, Any], context: str) -> dict[str, Any]:
    """The answer of dspy.RLM with its defaults, without a limit of time or sub-calls; if it raises, the reason."""
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


ENGINES = {"rlms": answer_by_rlms, "dspy": answer_by_dspy}


def main() -> None:
    """Answers until stdin ends."""
    answer = ENGINES[sys.argv[1]]
    for line in sys.stdin:
        request = json.loads(line)
        context = Path(request["text"]).read_text("utf-8") if "text" in request else request["context"]
        with contextlib.redirect_stdout(sys.stderr):  # keeps the output of its code off stdout
            result = answer(request, context)
        print(json.dumps(result, default=str), flush=True)


if __name__ == "__main__":
    main()
