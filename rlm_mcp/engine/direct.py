"""The other way to answer: one call that holds everything, without a REPL and without the loop."""

from collections.abc import Mapping
from dataclasses import replace

import anyio

from rlm_mcp.concurrency import run_off_loop
from rlm_mcp.contexts.store.store import Store
from rlm_mcp.engine import prompts
from rlm_mcp.engine.level import Level
from rlm_mcp.engine.steps import Ask, Finish
from rlm_mcp.engine.types import RunSpec


async def answer_directly(level: Level) -> Finish:
    """The answer of one call; under a schema of a second one, if the first answer does not satisfy it."""
    spec = level.spec
    texts = await anyio.to_thread.run_sync(_texts, spec, level.deps.store)
    for text in texts.values():
        level.deps.reading.add_model_text(text)
    messages = prompts.direct(spec.query, texts, spec.output_schema)
    for _ in range(1 if spec.output_schema is None else 2):
        turn = replace(level.begin_turn(), limit="", why_last="")  # every call may be the only one, limit or not
        reply = await level.ask_root(turn, Ask(messages=messages, turn=turn.number, is_last=True))
        finish = await run_off_loop(len(reply) + level.chars_to_check, level.judge.judge_text, reply)
        if finish.answered_by != "invalid":
            break
        messages = prompts.direct_again(messages, reply, finish.doubt)
    return finish


def _texts(spec: RunSpec, store: Store) -> Mapping[str, str]:
    """Everything the contexts hold, by name and path."""
    if not spec.contexts:
        value = spec.value
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {"context": str(value)}
    return {
        context.name if context.kind == "text" else f"{context.name}/{entry.path}": store.text(context, entry.path)
        for context in spec.contexts
        for entry in store.files(context)
    }
