"""The client's own model, asked through MCP's sampling: for connections that offer it, where no model is configured.

Sampling is a request from server to client, which 2026-07-28 no longer has and which its clients deprecate; there, and
where the client has not declared it, there is no such model. The protocol gives no token counts and no price.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from mcp import MCPError
from mcp.server.mcpserver import Context as Request
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import SamplingMessage, TextContent

from rlm_mcp.errors import ProviderFailed
from rlm_mcp.models.sampling import Sampled, SamplingModel

# The first version without requests from server to client. Versions are dates and compare as text.
STATELESS = "2026-07-28"


def client_model(request: Request[Any, Any]) -> SamplingModel | None:
    """The model of the client that sent this request, or None. It can be asked as long as the connection lives."""
    capabilities, version = request.client_capabilities, request.protocol_version
    if capabilities is None or capabilities.sampling is None or version is None or version >= STATELESS:
        return None
    session = request.session

    async def sample(
        turns: Sequence[tuple[Literal["user", "assistant"], str]],
        *,
        system: str,
        max_tokens: int,
        temperature: float | None,
    ) -> Sampled:
        messages = [SamplingMessage(role=role, content=TextContent(type="text", text=text)) for role, text in turns]
        with warnings.catch_warnings():  # deprecated with the protocol version that it belongs to; we know
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            asked = session.create_message(
                messages, max_tokens=max_tokens, system_prompt=system or None, temperature=temperature
            )
        try:
            result = await asked
        except MCPError as error:
            raise ProviderFailed(
                f"the client did not answer a sampling request ({error}): allow it there, or set RLM_MCP_MODEL"
            ) from error
        content = result.content
        text = content.text if isinstance(content, TextContent) else ""
        return Sampled(text=text, model=result.model, stop_reason=result.stop_reason)

    return SamplingModel(sample)
