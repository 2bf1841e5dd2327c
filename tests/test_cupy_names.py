"""The checker of CuPy calls finds what it should; it is tried on NumPy, which is always there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "check_cupy.py"


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("check_cupy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check(checker, body):
    return checker.check(body, roots=("numpy",))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("import numpy\nnumpy.zeross(3)", "numpy has no zeross"),
        ("import numpy as cp\ncp.linalg.solved(1, 2)", "numpy.linalg has no solved"),
        ("import numpy.linalgs", "numpy has no linalgs"),
        ("from numpy import zeross", "numpy has no zeross"),
        ("import numpy\nnumpy.kron(1, 2, 3)", "too many positional arguments"),
        ("import numpy\nnumpy.kron(1)", "missing a required argument"),
        ("import numpy\nnumpy.ones(3, dtipe=int)", "unexpected keyword argument 'dtipe'"),
        ("def f():\n    import numpy\n    numpy.pi_()", "numpy has no pi_"),
        ("import importlib\nxp = importlib.import_module('numpy')\nxp.zeross()", "numpy has no zeross"),
        ("import numpy\nr = numpy.random.RandomState(0)\nr.rands()", "RandomState has no rands"),
        ("import numpy\ndef f(r: numpy.random.RandomState): r.rands()", "RandomState has no rands"),
        ("import numpy\nwith numpy.errstate() as s:\n    s.entered()", "errstate has no entered"),
        (
            "import numpy\nclass A:\n    def __init__(self):\n        self.p = numpy.poly1d([1])\n"
            "    def f(self):\n        self.p.integ(1, 2, 3)",
            "too many positional arguments",
        ),
    ],
)
def test_a_wrong_call_is_found(checker, body, expected):
    (problem,) = check(checker, body).problems
    assert expected in problem


def test_right_calls_pass_and_are_counted(checker):
    body = """
import numpy
from numpy.linalg import solve

def f(p: numpy.poly1d, *shape, **options):
    numpy.ones(*shape, **options)
    return p.integ(1), solve(1, 2), numpy.kron(a=1, b=2)

class A:
    def __init__(self):
        self.p = numpy.poly1d([1])

class B:
    def __init__(self):
        self.p = other()
        self.p.anything(at=all)
"""
    report = check(checker, body)
    assert report.problems == []
    assert report.calls == 5
    assert {"numpy.linalg.solve", "numpy.poly1d.integ", "numpy.kron"} <= report.names


def test_a_compiled_signature_is_read_from_the_docstring(checker):
    def compiled():
        pass

    compiled.__signature__ = "hidden"  # what inspect makes no sense of, as with compiled functions
    compiled.__doc__ = "array.move(self, int stride, tuple order=None, \\*, bool wait=True) -> array"
    signature = checker._signature(compiled)
    assert list(signature.parameters) == ["self", "stride", "order", "wait"]
    assert signature.bind(None, stride=1, wait=False).arguments["stride"] == 1
    with pytest.raises(TypeError, match="unexpected keyword"):
        signature.bind(None, 1, strided=1)
    with pytest.raises(TypeError, match="missing"):
        signature.bind(None, order=1)


def test_a_missing_package_is_a_problem_not_a_pass(checker):
    report = checker.check("import no_such_package_\nno_such_package_.f()", roots=("no_such_package_",))
    assert report.problems
    assert all("is not installed" in problem for problem in report.problems)


def test_the_script_fails_on_a_wrong_file(checker, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(checker.check, "__kwdefaults__", {"filename": "", "roots": ("numpy",)})
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import numpy\nnumpy.zeros(3)")
    bad.write_text("import numpy\nnumpy.zeross(3)")
    assert checker.main([str(good)]) == 0
    assert checker.main([str(good), str(bad)]) == 1
    assert "bad.py:2" in capsys.readouterr().err
