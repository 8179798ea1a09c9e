"""Signing in: what somebody sees who may not enter, and that a setup that fell off keeps everybody out."""

from __future__ import annotations

import pytest
import streamlit as st
from dashboard_app import ROOT, headline, healthy
from streamlit.testing.v1 import AppTest

from capacity.pages import door

BOB = {"is_logged_in": True, "email": "Bob@example.com", "email_verified": True}


def seen(user: dict[str, object], monkeypatch: pytest.MonkeyPatch, asked: str = "") -> AppTest:
    monkeypatch.delenv("CAPACITY_SCENARIO", raising=False)
    monkeypatch.setattr(st, "user", user)
    monkeypatch.setenv(door.ASKED, asked)
    return healthy(AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60).run())


def test_without_a_provider_nobody_is_asked(monkeypatch):
    app = seen({}, monkeypatch)
    assert "need" in headline(app)
    assert not any(button.key == "sign-out" for button in app.button)


def test_a_stranger_sees_the_door_and_nothing_else(monkeypatch):
    app = seen({"is_logged_in": False}, monkeypatch)
    assert [button.label for button in app.button] == ["Sign in"]
    assert not app.html or all("cap-answer" not in part.value.partition("</style>")[2] for part in app.html)
    assert not app.metric
    assert not app.sidebar.children


def test_who_signed_in_enters_and_may_leave(monkeypatch):
    app = seen(BOB, monkeypatch)
    assert "need" in headline(app)
    assert app.button(key="sign-out").label == "Sign out Bob@example.com"


@pytest.mark.parametrize("asked", ["@example.com", " bob@EXAMPLE.com ,x@y.z", "any"])
def test_who_is_named_enters(asked, monkeypatch):
    assert "need" in headline(seen(BOB, monkeypatch, asked))


@pytest.mark.parametrize(
    ("user", "asked"),
    [
        (BOB, "@partner.org"),
        (BOB, "example.com"),
        (BOB | {"email_verified": False}, "@example.com"),
        ({"is_logged_in": True, "email": "bob@example.com"}, "@example.com"),
        (BOB | {"email": "bob@evil.com@example.com.evil.com"}, "@example.com"),
        (BOB | {"email": None}, "@example.com"),
    ],
)
def test_who_is_not_named_stays_out(user, asked, monkeypatch):
    app = seen(user, monkeypatch, asked)
    assert "may not enter" in app.error[0].value
    assert [button.label for button in app.button] == ["Sign out"]
    assert not app.metric


def test_a_provider_that_fell_off_keeps_everybody_out(monkeypatch):
    app = seen({}, monkeypatch, "@example.com")
    assert "no provider is set up" in app.error[0].value
    assert not app.metric


def test_a_provider_that_is_trusted_need_not_say_that_addresses_are_verified(monkeypatch):
    monkeypatch.setenv(door.TRUSTED, "1")
    assert "need" in headline(seen({"is_logged_in": True, "email": "bob@example.com"}, monkeypatch, "@example.com"))
