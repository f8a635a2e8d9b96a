"""Prepare by datatrove's Ray executor, on a Ray cluster of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.corpus.test_scale_local import same_as_on_one_machine


@pytest.mark.long
def test_ray(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="needs the extra `scale`")
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=10**8)
    try:
        same_as_on_one_machine(tmp_path, "ray", workers=2)
    finally:
        ray.shutdown()
