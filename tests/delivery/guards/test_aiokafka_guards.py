"""The guards are put in place for the one version of aiokafka that they were checked against."""

from __future__ import annotations

import aiokafka
import pytest

from guideway.delivery.guards import aiokafka_guards


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka, "__version__", "0.15.0")
    with pytest.raises(RuntimeError, match=r"aiokafka==0\.14\.0"):
        aiokafka_guards.install()
