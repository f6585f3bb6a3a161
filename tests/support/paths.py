"""Paths of the checkout, of the real clips beside it, and of stages that misbehave on purpose."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DATA", "MISBEHAVING", "ROOT"]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
MISBEHAVING = Path(__file__).parent / "misbehaving"
