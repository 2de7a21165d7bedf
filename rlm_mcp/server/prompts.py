"""The prompts that a client can offer its user, and the instructions by which a client finds this server.

`be_the_root` needs no key: the client's own model is the root and writes the code through `inspect_context`.
"""

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

from mcp.server.mcpserver import Context as Request
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts import Prompt
from pydantic import Field

from rlm_mcp.server.client_timeouts import limits_of

INSTRUCTIONS = """\
rlm-mcp answers questions over inputs far larger than a context window: logs, codebases, repositories, document
collections (PDF, Word, Excel), transcripts, mailboxes, archives, JSON/CSV dumps, from 50 kB to 10 GB. Search for its
tools (register_context, inspect_context, rlm_solve) when a file or directory is too long to read, when an answer must
cover all of a long text (count, classify, compare, summarise, aggregate, multi-hop questions), or when citations by
line are wanted.

1. register_context(source=path) or (text=…): returns a handle at once; nothing is read into the conversation.
2. For exact facts look yourself, free: inspect_context(context) for an overview, then start_line/end_line, search
   (regex) or code (Python over the variable `context`, in a sandbox without network; variables persist).
3. Where meaning must be judged over much text: rlm_solve(query, contexts). A model works recursively over the input in
   that sandbox and answers with verified citations. It costs model calls and 10 seconds to minutes.
4. While it says status "running", call rlm_result(run_id); do not start it again. cancel_run(run_id) stops it.

Without a model or key of its own, rlm_solve says so: then be the root yourself with inspect_context(code=…), as the
prompt be_the_root explains. Contexts and runs are also resources under rlm://.
"""

ContextName = Annotated[str, Field(description="id or name of a registered context")]
QuestionText = Annotated[str, Field(description="what to find out")]


def add_prompts(server: MCPServer[None]) -> None:
    """Registers both prompts."""
    for prompt in _prompts():
        server.add_prompt(prompt)


@cache
def _prompts() -> Sequence[Prompt]:
    """The prompts, which all servers share."""
    return [
        Prompt.from_function(analyze_context, title="Analyze a context"),
        Prompt.from_function(be_the_root, title="Be the root model yourself"),
    ]


def analyze_context(context: ContextName, question: QuestionText) -> str:
    """Answer a question over a registered context with rlm_solve."""
    return f"""\
Answer this question over the registered context {context!r}:

{question}

1. Call inspect_context(context={context!r}) to see what it is made of.
2. If one search or a count answers it, use inspect_context with search or code and stop there.
3. Otherwise call rlm_solve(query=…, contexts=[{context!r}]) with the question made self-contained: name the fields,
   the time range and the form of the answer.
4. While the status is "running", call rlm_result(run_id=…). Never start the same question twice.
5. Report the answer with its citations (path and lines) and say which of them are verified. If stopped_by is not
   "final", say that the answer is partial and which limit stopped it."""


def be_the_root(context: ContextName, question: QuestionText, request: Request[Any, Any]) -> str:
    """Answer a question over a context by writing Python through inspect_context yourself; no model key is needed."""
    room = limits_of(request).chars
    return f"""\
You are the root of a recursive language model. A long input is registered as {context!r}. You have not seen it and it
does not fit into this conversation; work on it only through the tool inspect_context. Question:

{question}

How to work:
1. inspect_context(context={context!r}) gives size, structure, first and last lines.
2. inspect_context(context={context!r}, code=…) runs Python. `context` holds the input: a string, or for several files a
   mapping from path to text. Variables persist between calls; imports from the standard library work. Print little: a
   count, a few lines, repr() of a sample. What is printed beyond about {room * 3 // 4:,} characters is cut.
3. First probe: len(context), a few lines from the beginning, the middle and the end. Then plan the decomposition.
4. Let code pin down what code can: search(pattern), re, Counter, csv, json. Keep results in variables.
5. Where meaning must be judged, print a batch of the candidate passages (at most {room // 2:,} characters a call),
   judge them yourself in your reply, and store your judgement in a variable by the next call. Cover all of them, batch
   by batch.
6. Before you answer, verify: print the lines your answer rests on with their line numbers
   (inspect_context with start_line/end_line also does).

Answer with the result and the path and line numbers it rests on. If something was not covered, say what."""
