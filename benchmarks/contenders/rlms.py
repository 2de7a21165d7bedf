"""Answers one question with alexzhang13/rlm and its defaults; JSON request on stdin, JSON result on stdout.

Run it with the Python of a virtual environment that has `rlms==0.1.3`; it imports nothing of this project.
"""

import contextlib
import importlib
import json
import sys
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of rlms. If it fails or runs out of time, its partial answer counts."""
    core: Any = importlib.import_module("rlm")
    exceptions: Any = importlib.import_module("rlm.utils.exceptions")
    logger = importlib.import_module("rlm.logger").RLMLogger()
    runner = core.RLM(
        backend="openai",
        backend_kwargs={"model_name": request["model"], "base_url": request["base_url"], "api_key": "none"},
        max_iterations=request["turns"],
        max_timeout=request["seconds"],
        sampling_args={"max_tokens": request["reply_tokens"]},
        logger=logger,
    )
    try:
        completion = runner.completion(request["context"], root_prompt=request["question"])
    except exceptions.TimeoutExceededError as error:
        return {"answer": error.partial_answer, "ended": "seconds", "trace": logger.get_trajectory()}
    except importlib.import_module("openai").APIStatusError as error:
        # After the last turn its request ends in two assistant messages, which llama.cpp refuses.
        partial = runner._best_partial_answer  # noqa: SLF001 # not in the error
        return {"answer": partial, "ended": f"failed: {error}"[:200], "trace": logger.get_trajectory()}
    usage = completion.usage_summary
    return {
        "answer": completion.response,
        "ended": "answered",
        "prompt_tokens": usage.total_input_tokens,
        "completion_tokens": usage.total_output_tokens,
        "trace": completion.metadata,
    }


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # keeps the output of its code off stdout
        result = answer(json.load(sys.stdin))
    print(json.dumps(result, default=str))
