"""Answers one question with dspy.RLM; JSON request on stdin, JSON result on stdout.

Run it with the Python of a virtual environment that has `dspy[deno]`; it imports nothing of this project. Its limits on
iterations and sub-calls are those of the request, everything else is its default.
"""

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of dspy.RLM, empty if it fails."""
    dspy: Any = importlib.import_module("dspy")
    given = {"api_base": request["base_url"], "api_key": request["api_key"], "cache": False}
    dspy.configure(lm=dspy.LM(f"openai/{request['model']}", **given))
    module = dspy.RLM(
        "context, question -> answer: str",
        max_iters=request["turns"],
        max_llm_calls=request["sub_calls"],
        sub_lm=dspy.LM(f"openai/{request['sub_model']}", **given),
    )
    try:
        said = module(context=Path(request["text"]).read_text("utf-8"), question=request["question"])
    except Exception as error:  # noqa: BLE001 # whatever it fails with is its answer
        return {"answer": "", "ended": f"failed: {type(error).__name__}: {error}"[:300]}
    return {"answer": str(said.answer), "ended": "answered"}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        result = answer(json.load(sys.stdin))
    print(json.dumps(result))
