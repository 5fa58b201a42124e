"""The tests of the shop."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql.testing import (
    database_down,
    expire,
    revoke,
    session_transaction,
)


@pytest.mark.parametrize("goods", ["tea", "coffee", "milk", "sugar"])
def test_orders_are_shown(ann: FlaskClient, goods: str) -> None:
    """Users see what they have ordered."""
    assert ann.get("/orders").json == []
    ann.post("/orders", data={"goods": goods})
    assert ann.get("/orders").json == [goods]
    with session_transaction(ann) as session:
        assert session["ordered"] == 1


def test_visitors_see_no_orders(client: FlaskClient) -> None:
    """They are asked to log in."""
    assert client.get("/orders").status_code == 401


@pytest.mark.parametrize("end", [expire, revoke])
def test_who_was_logged_out_sees_no_orders(ann: FlaskClient, end: object) -> None:
    """After a while, or by somebody else."""
    assert callable(end)
    end(ann)
    assert ann.get("/orders").status_code == 401


def test_the_shop_is_closed_without_its_sessions(app: Flask, ann: FlaskClient) -> None:
    """And open again with them."""
    with database_down(app):
        assert ann.get("/orders").status_code == 503
    assert ann.get("/orders").status_code == 200
