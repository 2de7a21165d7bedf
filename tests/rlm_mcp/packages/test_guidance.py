"""What a model is told about packages, in the prompt and when an import fails."""

from typing import Literal

import pytest

from rlm_mcp.engine.prompts import system
from rlm_mcp.packages.guidance import import_advice, installed_phrase

HAS_NUMPY = ("bs4", "numpy")


def test_a_prompt_names_the_packages_or_says_that_there_are_none() -> None:
    assert installed_phrase(()) == "standard library, no network"
    assert installed_phrase(HAS_NUMPY) == (
        "standard library; installed besides: bs4, numpy; nothing else can be installed, no network"
    )


@pytest.mark.parametrize("strength", ["strong", "weak"])
def test_the_system_prompt_of_either_profile_says_so(strength: Literal["strong", "weak"]) -> None:
    assert "installed besides: bs4, numpy; nothing" in system(strength, imports=HAS_NUMPY).content
    assert "installed besides" not in system(strength).content


NOTHING = "Nothing can be installed from here."


@pytest.mark.parametrize(
    ("module", "imports", "advice"),
    [
        (
            "regex",
            (),
            f"the standard library only. {NOTHING} Use re. (Its owner can add it: rlm-mcp packages add regex)",
        ),
        (
            "scipy.stats",
            HAS_NUMPY,
            f"the standard library and: bs4, numpy. {NOTHING} (Its owner can add it: rlm-mcp packages add scipy)",
        ),
        (
            "sklearn",
            (),
            f"the standard library only. {NOTHING} (Its owner can add it: rlm-mcp packages add scikit-learn)",
        ),
        ("pip", (), f"the standard library only. {NOTHING}"),
        ("micropip", HAS_NUMPY, f"the standard library and: bs4, numpy. {NOTHING}"),
    ],
)
def test_a_failed_import_says_what_there_is(module: str, imports: tuple[str, ...], advice: str) -> None:
    assert import_advice(f"No module named '{module}'", imports) == f"This sandbox has {advice}"


@pytest.mark.parametrize(
    "message",
    [
        "[Errno 138] emscripten does not support processes.",
        'File "<cell 1>", line 1\n    !pip install scipy\n    ^\nSyntaxError: invalid syntax\n',
        'File "<cell 1>", line 2\n    %pip install scipy\n    ^\nSyntaxError: invalid syntax\n',
    ],
)
def test_a_program_that_was_not_started_says_what_there_is(message: str) -> None:
    advice = import_advice(message, HAS_NUMPY)
    assert advice == f"This sandbox has the standard library and: bs4, numpy. {NOTHING}"


def test_other_messages_get_no_advice() -> None:
    assert import_advice("    pip install scipy\nSyntaxError: invalid syntax", ()) is None
    assert import_advice("[Errno 2] No such file or directory: 'x'", ()) is None
    assert import_advice("No module named 'numpy.nonsense'", HAS_NUMPY) is None
    assert import_advice("import of _ctypes halted; None in sys.modules", ()) is None
