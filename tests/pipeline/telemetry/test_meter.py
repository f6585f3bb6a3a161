"""Meters as snapshots and the ledger hold them."""

from __future__ import annotations

from pipeline.contract import Loss
from pipeline.telemetry.meter import Meter, meter_from_dict, meter_to_dict


def test_a_meter_of_before_the_new_spelling_is_read() -> None:
    meter = Meter(items=3, losses=[Loss(what="a", why="b")], artifacts={"a.txt": "text"})
    saved = meter_to_dict(meter)
    assert meter_from_dict(saved) == meter
    saved["artefacts"] = saved.pop("artifacts")
    assert meter_from_dict(saved) == meter
