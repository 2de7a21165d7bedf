"""scipy, scikit-learn, matplotlib and others, added to a library from wheels: `.ci/packages` runs these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_mcp.packages.library import PackageLibrary
from wasm_runtime import Limits, Runtime, Session

pytestmark = pytest.mark.packages

PACKAGES = ["scipy", "scikit-learn", "matplotlib", "sympy", "pillow", "tiktoken", "pydantic", "seaborn"]
LIMITS = Limits(memory_bytes=256 << 20, cell_seconds=60.0)
SETUP = """
import ctypes, io
import numpy as np, scipy.integrate, scipy.linalg, scipy.optimize, scipy.spatial, scipy.stats
import matplotlib.pyplot as plt, pydantic, seaborn, sympy, tiktoken
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
points, kinds = np.array([[0.0, 0], [0, 1], [9, 9], [9, 8]]), [0, 0, 1, 1]
x = sympy.symbols("x")
file = io.BytesIO()
"""


@pytest.fixture(scope="module")
def runtime(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, sandbox_cache: Path
) -> Iterator[Runtime]:
    wheels: Path | None = pytestconfig.getoption("--wheels")
    if wheels is None:
        pytest.skip("--wheels names no folder with wheels of Pyodide's release")
    library = PackageLibrary(tmp_path_factory.mktemp("science"))
    image = library.add(PACKAGES, cache_dir=sandbox_cache, find_links=[str(wheels)], report=print)
    with Runtime(sandbox_cache, image=image.folder) as runtime:
        yield runtime


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("round(float(scipy.stats.ttest_ind([1, 2, 3], [2, 3, 9.0]).pvalue), 3)", "0.304"),
        ("0 < float(scipy.stats.genhyperbolic.cdf(1.0, 0.5, 1.5, -0.5)) < 1", "True"),
        ("round(scipy.integrate.quad(lambda v: v**2, 0, 3)[0], 6)", "9.0"),
        ("scipy.optimize.linprog([-1, -2], [[1, 1]], [4]).x.tolist()", "[0.0, 4.0]"),
        ("scipy.linalg.svdvals(np.diag([3.0, 2, 1])).tolist()", "[3.0, 2.0, 1.0]"),
        ("sorted(scipy.spatial.ConvexHull(points).vertices.tolist())", "[0, 1, 2, 3]"),
        ("LogisticRegression().fit(points, kinds).predict([[8, 8]])", "array([1])"),
        ("len(set(KMeans(2, n_init=2).fit_predict(points).tolist()))", "2"),
        ("RandomForestClassifier(9).fit(points, kinds).predict([[0, 0]])", "array([0])"),
        ("TfidfVectorizer().fit_transform(['the cat', 'the dog']).shape", "(2, 3)"),
        ("plt.plot([1, 2], [3, 4]); plt.savefig(file); file.getvalue()[:4]", "b'\\x89PNG'"),
        ("sympy.integrate(x * sympy.exp(x), x)", "(x - 1)*exp(x)"),
        ("sympy.factorint(360360)", "{2: 3, 3: 2, 5: 1, 7: 1, 11: 1, 13: 1}"),
        ("Image.new('RGB', (4, 3), 'red').resize((2, 2)).getpixel((1, 1))", "(255, 0, 0)"),
        ("tiktoken.Encoding('x', pat_str='.', mergeable_ranks={b'a': 0}, special_tokens={}).encode('aa')", "[0, 0]"),
        ("pydantic.create_model('M', n=(int, ...))(n='42').n", "42"),
        ("seaborn.color_palette('deep').as_hex()[0]", "'#4c72b0'"),
    ],
)
def test_each_package_does_what_it_is_for(session: Session, code: str, value: str) -> None:
    result = session.exec(code)
    assert (result.value, result.error) == (value, None)


def test_a_fork_and_copies_compute_too(session: Session) -> None:
    with session.fork() as child:
        assert child.exec("float(scipy.linalg.det(np.diag([2.0, 3.0])))").value == "6.0"
    assert session.exec("parallel_map(lambda n: float(scipy.linalg.norm([n, 0])), [1, 2])").value == "[1.0, 2.0]"


def test_a_loop_in_fortran_code_ends_at_the_deadline_and_variables_stay(session: Session) -> None:
    result = session.exec("while True: scipy.linalg.svdvals(np.ones((400, 400)))", seconds=1.0)
    assert result.stopped_by == "deadline"
    assert session.exec("len(points)").value == "4"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("cross_val_score(LogisticRegression(), points, kinds, cv=2, n_jobs=2).tolist()", None),
        ("ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)", "RuntimeError"),
        ("ctypes.CDLL('libc.so.6')", "OSError"),
        ("ctypes.CDLL(None).system", "AttributeError"),
        ("tiktoken.get_encoding('o200k_base')", "ModuleNotFoundError"),
    ],
)
def test_what_cannot_work_fails_in_words_and_harms_nothing(session: Session, code: str, error: str | None) -> None:
    result = session.exec(code)
    assert (None if result.error is None else result.error.type, result.undone) == (error, False)
    assert session.exec("len(points)").value == "4"
