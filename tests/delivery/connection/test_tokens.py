"""When a token is renewed, with literal times; what is done where the endpoint gives none."""

from __future__ import annotations

import base64
import json

import pytest

from guideway.delivery.connection import tokens
from guideway.delivery.connection.backoff import after
from guideway.delivery.connection.secret import Secret
from guideway.delivery.connection.security import TokenLogin
from guideway.delivery.connection.tokens import Token, Tokens, token_of
from guideway.delivery.connection.trouble import Cause, Trouble

LOGIN = TokenLogin(endpoint="https://idp/t", client_id="shop", secret=Secret("hush"))


def jwt(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.sig"


@pytest.mark.parametrize(
    ("told", "ends_at"),
    [
        ({"access_token": "x", "expires_in": 60}, 1060),
        ({"access_token": jwt(exp=1030), "expires_in": 60}, 1030),
        ({"access_token": jwt(exp=1090)}, 1090),
        ({"access_token": jwt(sub="me")}, 1300),
        ({"access_token": "a.b.c", "expires_in": -1}, 1300),
    ],
)
def test_when_a_token_ends(told: object, ends_at: float) -> None:
    early, late = (token_of(told, LOGIN, 1000, chance) for chance in (0.0, 1.0))
    assert early.ends_at == late.ends_at == ends_at
    assert early.renew_at == pytest.approx(1000 + 0.65 * (ends_at - 1000))
    assert late.renew_at == pytest.approx(1000 + 0.8 * (ends_at - 1000))
    assert "x" not in repr(Token("x", 1, 2)).removeprefix("Token(")[:1]


@pytest.mark.parametrize("told", [None, [], {}, {"access_token": ""}, {"access_token": "a\nb"}, {"access_token": 7}])
def test_an_answer_without_a_token(told: object) -> None:
    with pytest.raises(Trouble, match="without an access_token"):
        token_of(told, LOGIN, 1000, 0)


def test_a_token_is_kept_renewed_and_used_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers, asked = [1000.0], [{"access_token": "a", "expires_in": 100}], []

    def ask(login: TokenLogin) -> object:
        asked.append(now[0])
        if not answers:
            raise Trouble(Cause("away"))
        return answers.pop(0)

    monkeypatch.setattr(tokens, "_asked", ask)
    held = Tokens(LOGIN, clock=lambda: now[0], chance=lambda: 0.0)
    assert held.ends_at is None
    for when in (1000.0, 1064.0):
        now[0] = when
        assert held.present() == "a"
    assert asked == [1000.0]
    # The endpoint is away: the token holds to its end, and the endpoint is asked every two seconds.
    for when in (1065.0, 1066.0, 1067.5, 1099.0):
        now[0] = when
        assert held.present() == "a"
    assert asked == [1000.0, 1065.0, 1067.5, 1099.0]
    now[0] = 1100.0
    with pytest.raises(Trouble, match="away"):
        held.present()
    now[0] = 1102.0
    answers.append({"access_token": "b", "expires_in": 100})
    assert held.present() == "b"
    assert held.ends_at == 1202.0


def test_pauses_grow_with_jitter_and_end_soon() -> None:
    failed, pauses = None, []
    for _ in range(8):
        failed = after(failed, 0.0, 0.5, is_refused=False)
        pauses.append(round(failed.until, 3))
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert after(failed, 10.0, 0.0, is_refused=True).until == pytest.approx(14.0)
    assert after(failed, 10.0, 0.999999, is_refused=True).until == pytest.approx(16.0, abs=0.001)
