"""An MCP server on stdio for tests, without the SDK, so that it starts at once. `end` ends it without an answer."""

import json
import os
import sys
from typing import Any

TOOLS = [
    {
        "name": "find-customer",
        "description": "Finds a customer by name.\nNot for the prompt.",
        "inputSchema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["name"],
        },
    },
    {"name": "refuse", "inputSchema": {"type": "object"}},
    {"name": "end", "inputSchema": {"type": "object"}},
    {"name": "forbidden", "inputSchema": {"type": "object"}},
]


def answer(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            return {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "crm", "version": "1"},
            }
        case "tools/list":
            return {"tools": TOOLS}
        case "tools/call" if params["name"] == "find-customer":
            found = {"given": params["arguments"], "key": os.environ.get("CRM_KEY")}
            return {"content": [{"type": "text", "text": "found"}], "structuredContent": found}
        case "tools/call" if params["name"] == "refuse":
            return {"content": [{"type": "text", "text": "not on Sundays"}], "isError": True}
        case "tools/call":
            sys.exit()
    return None


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = answer(message["method"], message.get("params") or {})
        outcome = {"result": result} if result else {"error": {"code": -32601, "message": "no such method"}}
        print(  # noqa: T201 - the protocol
            json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True
        )
