"""Which index the user's pip is set to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hornbook.errors import HornbookError
from hornbook.gather.cache import user_cache
from hornbook.gather.pip_settings import PUBLIC_INDEX, config_files, read_pip_settings

NO_FILES = {"PIP_CONFIG_FILE": os.devnull}


def test_nothing_set_means_the_public_index() -> None:
    settings = read_pip_settings(NO_FILES)
    assert settings.indexes == (PUBLIC_INDEX,)
    assert settings.certificate is None and settings.proxy is None


def test_environment_variables() -> None:
    settings = read_pip_settings(
        NO_FILES
        | {
            "PIP_INDEX_URL": "https://user:secret@mirror.example/simple/",
            "PIP_EXTRA_INDEX_URL": "file:///opt/a/simple https://b.example/simple",
            "PIP_CERT": "/etc/corporate.pem",
            "PIP_PROXY": "http://proxy.example:3128",
        }
    )
    assert settings.indexes == (
        "https://user:secret@mirror.example/simple",
        "file:///opt/a/simple",
        "https://b.example/simple",
    )
    assert settings.certificate == Path("/etc/corporate.pem")
    assert settings.proxy == "http://proxy.example:3128"


def test_no_index() -> None:
    assert read_pip_settings(NO_FILES | {"PIP_NO_INDEX": "1"}).indexes == ()
    assert read_pip_settings(NO_FILES | {"PIP_NO_INDEX": "false"}).indexes == (PUBLIC_INDEX,)


def test_uv_is_asked_where_pip_has_no_index() -> None:
    uv = {"UV_DEFAULT_INDEX": "mirror=https://uv.example/simple", "UV_INDEX": "https://x.example"}
    assert read_pip_settings(NO_FILES | uv).indexes == (
        "https://uv.example/simple",
        "https://x.example",
    )
    old = {"UV_INDEX_URL": "https://old.example/simple?a=b"}
    assert read_pip_settings(NO_FILES | old).indexes == ("https://old.example/simple?a=b",)
    with_pip = read_pip_settings(NO_FILES | uv | {"PIP_INDEX_URL": "https://pip.example"})
    assert with_pip.indexes[0] == "https://pip.example"


@pytest.mark.skipif(sys.platform == "win32", reason="other places on Windows")
def test_configuration_files_in_pips_order(tmp_path: Path) -> None:
    for folder, text in {
        "etc/pip": "[global]\nindex-url = https://global.example\nproxy = http://p:1\n",
        ".pip": "[global]\nindex-url = https://legacy.example\n",
        ".config/pip": "[global]\nindex-url = https://user.example\nextra-index-url =\n"
        "    https://one.example\n    https://two.example\n",
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pip.conf").write_text(text)
    environment = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "etc")}
    settings = read_pip_settings(environment)
    assert settings.indexes[0] == "https://user.example" and settings.proxy == "http://p:1"
    assert settings.indexes[1:] == ("https://one.example", "https://two.example")
    own = tmp_path / "own.conf"
    own.write_text(
        "[global]\nindex-url = https://a.example\n[download]\nindex_url = https://b.example"
    )
    settings = read_pip_settings(environment | {"PIP_CONFIG_FILE": str(own)})
    assert settings.indexes[0] == "https://b.example"
    (tmp_path / ".config/pip/pip.conf").write_text("index-url = no section")
    with pytest.raises(HornbookError, match=r"pip\.conf: is not readable as pip's configuration"):
        read_pip_settings(environment)


def test_the_same_files_as_pip_itself() -> None:
    command = [sys.executable, "-m", "pip", "config", "list", "-v"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if listed.returncode:
        pytest.skip("no pip in this environment")
    pips = [line.split("'")[3] for line in listed.stdout.splitlines() if "will try" in line]
    ours = [str(path) for path in config_files()]
    assert [path for path in ours if path in pips] == pips


def test_user_cache(tmp_path: Path) -> None:
    assert user_cache({"HORNBOOK_CACHE": str(tmp_path)}) == tmp_path
    assert user_cache({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "hornbook"
    assert user_cache({}) == Path.home() / ".cache/hornbook"
