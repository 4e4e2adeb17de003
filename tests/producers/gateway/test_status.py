"""Every failure has its words at every door."""

from __future__ import annotations

from http import HTTPStatus

import grpc
import pytest

from guideway.producers.gateway.status import DoorCode, status_of
from guideway.schemas.failures import FailureCode

EVERY = [*FailureCode, *DoorCode]


@pytest.mark.parametrize("code", EVERY)
def test_each_code_has_its_words(code: FailureCode | DoorCode) -> None:
    status = status_of(code)
    assert HTTPStatus(status.http) >= 400
    assert status.title
    assert grpc.StatusCode[status.grpc] is not grpc.StatusCode.OK


def test_what_may_succeed_when_sent_again_says_when() -> None:
    assert not [one for one in FailureCode if one.retryable and not status_of(one).retryable]


def test_a_code_means_one_thing() -> None:
    assert len({one.value for one in EVERY}) == len(EVERY)
