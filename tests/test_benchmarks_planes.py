"""The benchmark of FreqKD's loss: its file, and that its contestants compute the same."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import planes
from fdlab.losses.planes import band_loss
from fdlab.models import MODELS
from fdlab.spectral.planes import standardise


def test_the_plain_form_is_the_released_loss():
    s, t = torch.randn(2, 2, 8, 9, 6, generator=torch.Generator().manual_seed(1))
    low, high = band_loss(standardise(s), standardise(t), mask="released")
    assert planes.plain_loss(s, t).item() == pytest.approx((low + 0.1 * high).item(), rel=1e-5)


@pytest.mark.skipif("vit_small" not in MODELS, reason="the table has no vision transformer")
def test_a_quick_run_writes_each_forms_share_of_the_step(tmp_path):
    pytest.importorskip("transformers")
    out, threads = tmp_path / "planes.json", torch.get_num_threads()
    try:
        planes.main(["--quick", "--device", "cpu", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    found = json.loads(out.read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["step", "symmetric", "released", "whole", "plain"]
    assert (found["kind"], found["network"], found["target"]) == ("cpu", "vit_small", 0.05)
    step = rows.pop("step")["milliseconds"]
    for row in rows.values():
        assert 0 < row["low"] <= row["milliseconds"] <= row["high"] and row["repeats"] == 2
        assert row["share"] == pytest.approx(row["milliseconds"] / step, rel=2e-3)
    assert rows["whole"]["bytes"] < rows["symmetric"]["bytes"] < rows["plain"]["bytes"]
