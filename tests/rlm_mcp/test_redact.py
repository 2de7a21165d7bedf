import pytest

from rlm_mcp.redact import Secret, mask_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('"RLM_MCP_API_KEY": "a\\"b"', '"RLM_MCP_API_KEY": "***"'),
        ("env = { MY_TOKEN = 'x', B = \"c\" }", "env = { MY_TOKEN = '***', B = \"c\" }"),
        ("-  password: hunter2", "-  password: ***"),
        ('args: ["--api-key=abc", "--token", "def", "x"]', 'args: ["--api-key=***", "--token", "***", "x"]'),
        ('+ "--token",\n+ "def"', '+ "--token",\n+ "***"'),
        ('"x": "sk-abcdefghij"', '"x": "[key]"'),
        ('"command": "/k"', '"command": "/k"'),
        ("run a--my-key=abc-def now", "run a--my-key=*** now"),
        ("icon: " + "key" * 20_000, "icon: " + "key" * 20_000),
    ],
)
def test_secrets_are_masked_in_every_form(text: str, shown: str) -> None:
    assert mask_secrets(text) == shown


def test_a_secret_scrubs_itself_and_what_looks_like_a_key() -> None:
    secret = Secret("hunter2-hunter2")
    assert secret.scrub("bad key hunter2-hunter2 or sk-ab**********yz.") == "bad key [key] or [key]"
