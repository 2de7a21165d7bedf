"""One question answered without a server, for programs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rlm_mcp.records.types import RunState
from rlm_mcp.repl.guest_functions import functions_of
from rlm_mcp.settings import Settings, load_settings
from rlm_mcp.spending import RunLimits
from rlm_mcp.workspace.launch import ChooseModels, SolveRequest
from rlm_mcp.workspace.workspace import open_workspace


async def solve(
    query: str,
    contexts: Sequence[str | Path] | Mapping[str, str],
    *,
    mode: Literal["auto", "direct", "rlm"] = "auto",
    max_depth: int | None = None,
    max_usd: float | None = None,
    max_tokens: int | None = None,
    max_sub_calls: int | None = None,
    max_seconds: float | None = None,
    max_iterations: int | None = None,
    model: str | None = None,
    sub_model: str | None = None,
    output_schema: Mapping[str, Any] | None = None,
    packages: Sequence[str] | None = None,
    encoding: str | None = None,
    calls: Mapping[str, Callable[..., object]] | None = None,
    settings: Settings | None = None,
    choose: ChooseModels | None = None,
) -> RunState:
    """Answers `query` over contexts: paths, globs, names of registered contexts, or a mapping from name to text.

    `packages` are those of the sandbox, as in the setting. `encoding` is that of files without a byte order mark
    (default: detected). `calls` are functions, sync or async, that code in the sandbox may call by these names with
    JSON values; each call counts as a sub-call, and its answer is on record. Another text under the name of an earlier
    one is the next version of that context; live runs keep theirs. The run is recorded like any other; its `answer` is
    None when it failed, and `stopped_by` and `message` say why. By default, `settings` are those of the environment and
    `choose` the configured models. Raises RlmError for errors that are found before anything is spent.
    """
    async with open_workspace(settings or load_settings(), choose=choose) as workspace:
        if isinstance(contexts, Mapping):
            found = [
                await workspace.contexts.register(text=text, name=name, supersedes=True)
                for name, text in contexts.items()
            ]
        else:
            found = [await workspace.contexts.find_or_register(str(source), encoding=encoding) for source in contexts]
        run_id = await workspace.runs.start(
            SolveRequest(
                query=query,
                contexts=tuple(context.context_id for context in found),
                mode=mode,
                limits=RunLimits(
                    max_depth=max_depth,
                    max_usd=max_usd,
                    max_tokens=max_tokens,
                    max_sub_calls=max_sub_calls,
                    max_seconds=max_seconds,
                    max_iterations=max_iterations,
                ),
                model=model,
                sub_model=sub_model,
                output_schema=output_schema,
                functions=functions_of(calls or {}),
                packages=None if packages is None else tuple(packages),
            )
        )
        async for _ in workspace.runs.follow(run_id):
            pass
        return await workspace.runs.state(run_id)
