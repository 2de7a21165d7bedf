"""Answers questions with alexzhang13/rlm and its defaults: a JSON request a line on stdin, a JSON result for each.

Run it with the Python of a virtual environment that has `rlms==0.1.3`; it imports nothing of this project. A request
has `context`, or `text`, the path of a file that holds it; `sub_model`, `api_key` and `reply_tokens` are optional.
"""

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of rlms. If it fails or runs out of time, its partial answer counts."""
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
    context = Path(request["text"]).read_text("utf-8") if "text" in request else request["context"]
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


if __name__ == "__main__":
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):  # keeps the output of its code off stdout
            result = answer(json.loads(line))
        print(json.dumps(result, default=str), flush=True)
