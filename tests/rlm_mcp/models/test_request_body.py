"""Bodies of requests in the dialects of servers."""

from rlm_mcp.models.base import Message
from rlm_mcp.models.dialect import Dialect
from rlm_mcp.models.request_body import arrange, is_strict, request


def chat(*pairs: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in pairs]  # type: ignore[arg-type] # written as text


def test_neighbours_of_one_role_are_joined_and_later_system_messages_become_the_users() -> None:
    messages = chat(
        ("system", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("system", "e"), ("user", "f")
    )
    joined = chat(("system", "a"), ("user", "b"), ("assistant", "c\n\nd"), ("user", "e\n\nf"))
    assert arrange(messages, Dialect()) == joined


def test_without_a_system_role_its_text_goes_to_the_user() -> None:
    arranged = arrange(chat(("system", "a"), ("user", "b")), Dialect(system_role=False))
    assert arranged == chat(("user", "a\n\nb"))


def test_a_chat_may_have_to_end_with_the_user() -> None:
    assert arrange(chat(("user", "a"), ("assistant", "b")), Dialect(ends_with_user=True))[-1].content == "Go on."


def test_the_responses_api_has_its_own_names() -> None:
    path, body = request(
        Dialect(api="responses"), "m", chat(("user", "hi")), max_tokens=5, temperature=None, schema={"type": "object"}
    )
    assert path == "/responses"
    assert body == {
        "model": "m",
        "store": False,
        "input": [{"role": "user", "content": "hi"}],
        "max_output_tokens": 16,
        "text": {"format": {"type": "json_schema", "name": "reply", "schema": {"type": "object"}, "strict": False}},
    }


def test_strictness_looks_into_every_part() -> None:
    inner = {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    assert is_strict(inner)
    assert not is_strict({"type": "array", "items": {"type": "object", "properties": {"a": {}}}})
