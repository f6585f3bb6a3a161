"""Patches of Ray's private modules: they take effect here, and a missing name costs no run."""

from __future__ import annotations

import logging

import pytest

from pipeline.cluster import ray_internals
from pipeline.cluster.ray_internals import replaced

PATCHED = (
    "ray._private.parameter:RayParams",
    "ray._private.node:Node.start_api_server",
    "ray._private.utils:get_dashboard_dependency_error",
    "ray._private.services:get_node",
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
    "ray._private.worker:listen_error_messages",
)


@pytest.mark.parametrize("where", PATCHED)
def test_the_installed_ray_has_what_is_patched(where: str) -> None:
    assert ray_internals._find(where) is not None


def test_a_value_is_replaced_for_the_block_only() -> None:
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    with ray_internals.loopback(only=True):
        assert ray_constants.ENABLE_RAY_CLUSTER is False
    assert before == ray_constants.ENABLE_RAY_CLUSTER


@pytest.mark.parametrize(
    "where", ["ray._private.worker:no_such_name", "ray._private.no_such_module:x"]
)
def test_a_missing_name_costs_the_effect_and_a_warning(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), replaced(where, None, "this is lost") as done:
        assert not done
    assert "this is lost" in caplog.text
    assert where.replace(":", ".") in caplog.text


def test_a_ray_that_cannot_read_its_token_again_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ray import _raylet

    monkeypatch.delattr(_raylet, "AuthenticationTokenLoader")
    with caplog.at_level(logging.WARNING):
        assert not ray_internals.read_token()
    assert "token" in caplog.text
