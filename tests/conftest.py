"""One thread, an isolated output root, and property tests that repeat exactly."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("fdlab", deadline=None, database=None, derandomize=True, max_examples=40)
settings.load_profile("fdlab")


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory):
    """Everything that a test writes goes below a folder of the test session's own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FDLAB_HOME", str(home))
        yield home


@pytest.fixture(autouse=True)
def kept_settings(isolated_home):
    """A test leaves no setting behind, which the next one of its process would obey."""
    before = {k: v for k, v in os.environ.items() if k.startswith("FDLAB_")}
    yield
    after = {k: v for k, v in os.environ.items() if k.startswith("FDLAB_")}
    for name in after:
        del os.environ[name]
    os.environ.update(before)
    assert after == before


@pytest.fixture(scope="session")
def digits(isolated_home):
    """The embedded data set at the smoke preset's size, built once."""
    from fdlab.core.config import PRESETS
    from fdlab.core.device import cores
    from fdlab.data.store import prepare

    pytest.importorskip("espeakng_loader")
    return prepare("digits", PRESETS["smoke"].data_options, workers=cores())


@pytest.fixture(scope="module")
def plan(digits):
    """Its smallest plan, of one seed."""
    from fdlab.studies.plan import make_plan

    return make_plan("digits", "smoke", seeds=[0])


@pytest.fixture(scope="module")
def data(digits):
    """All its modalities, on the CPU."""
    from teaching import CPU, SIDES

    from fdlab.data.paired import PairedData

    return PairedData.load(digits, SIDES, CPU)


@pytest.fixture
def home(tmp_path, digits, monkeypatch):
    """Runs and checkpoints of a test's own, over the one store."""
    from fdlab.core import paths

    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "stores").symlink_to(paths.stores())
    monkeypatch.setenv("FDLAB_HOME", str(tmp_path))
    return tmp_path
