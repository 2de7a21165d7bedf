"""The Skills extension: entries with digests of what is read, in both protocol eras."""

import hashlib
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, Request, RequestParams, Result
from ruamel.yaml import YAML

from rlm_mcp.server.skills_extension import IDENTIFIER, frontmatter

pytestmark = pytest.mark.anyio

URI = "skill://long-inputs/SKILL.md"


class SkillsParams(RequestParams):
    uri: str | None = None
    cursor: str | None = None


class SkillsRequest(Request[SkillsParams, str]):
    method: str
    params: SkillsParams


class SkillsResult(Result):
    skills: list[dict[str, Any]] | None = None
    skill: dict[str, Any] | None = None
    ttl_ms: int
    cache_scope: str


async def ask(client: Client, method: str, **params: str) -> SkillsResult:
    given = SkillsParams.model_validate(params)
    return await client.session.send_request(SkillsRequest(method=method, params=given), SkillsResult)


async def test_a_skill_is_listed_got_and_read_with_its_digest(client: Client) -> None:
    declared = client.server_capabilities.extensions  # handshakes have none; the methods answer there all the same
    assert declared is None or declared[IDENTIFIER] == {}
    listed = await ask(client, "skills/list")
    (content,) = (await client.read_resource(URI)).contents
    text = content.text  # type: ignore[union-attr] # it is a text
    data = text.encode()
    head = YAML(typ="safe").load(text.split("---\n")[1])
    entry = {
        "uri": URI,
        "frontmatter": head,
        "resources": [{"uri": URI, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}],
    }
    assert (listed.skills, listed.cache_scope) == ([entry], "public")
    assert (await ask(client, "skills/get", uri=URI)).skill == entry
    assert head == frontmatter(text)
    assert content.mime_type == "text/markdown"


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("skills/get", {"uri": "skill://other/SKILL.md"}, "no skill is at 'skill://other/SKILL.md'; there are: "),
        ("skills/list", {"cursor": "2"}, "one page"),
    ],
)
async def test_skills_that_are_not_there_are_invalid_parameters(
    client: Client, method: str, params: dict[str, str], words: str
) -> None:
    with pytest.raises(MCPError, match=words) as refused:
        await ask(client, method, **params)
    assert refused.value.code == INVALID_PARAMS


async def test_the_skill_repeats_a_call_that_timed_out_and_waits_for_a_run_that_has_an_id(client: Client) -> None:
    (content,) = (await client.read_resource(URI)).contents
    words = " ".join(content.text.split())  # type: ignore[union-attr] # it is a text
    assert "With a `run_id`, call `rlm_result` and do not start the question again." in words
    assert "After a time-out of your client without one, repeat the same call of `rlm_solve`" in words
