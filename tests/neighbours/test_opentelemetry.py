"""OpenTelemetry: the statements of the sessions are spans within the request's. What
else SQLAlchemy's instrumentation sees is in tests/integration/test_instrumentation.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, session
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.helpers import store_of
from tests.integration.helpers import add_views, rows, token, visit
from tests.neighbours.blocks import run_blocks

of_flask: Any = pytest.importorskip(
    "opentelemetry.instrumentation.flask",
    reason="OpenTelemetry for Flask comes with `nox -s neighbours`",
)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    """The spans that are finished."""
    return InMemorySpanExporter()


@pytest.fixture
def app(exporter: InMemorySpanExporter) -> Iterator[Flask]:
    """What the page defines."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    names = run_blocks("opentelemetry")
    app: Flask = names["set_up"](provider)
    add_views(app)
    yield app
    of_flask.FlaskInstrumentor().uninstrument_app(app)
    names["SQLAlchemyInstrumentor"]().uninstrument()
    store_of(app).dispose()
    provider.shutdown()


def told(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[str]]:
    """The span of the last request, and the statements of those within it."""
    spans = exporter.get_finished_spans()
    exporter.clear()
    [outer] = [span for span in spans if span.parent is None]
    assert outer.context is not None
    within = [
        str((span.attributes or {}).get("db.statement"))
        for span in spans
        if span.parent is not None and span.parent.span_id == outer.context.span_id
    ]
    return outer, [each for each in within if each != "None"]


def test_statements_are_spans_of_the_request(
    app: Flask, exporter: InMemorySpanExporter
) -> None:
    """How the session is read, and how it is saved after the view."""
    client = app.test_client()
    client.get("/visits")
    exporter.clear()
    assert "2" == client.get("/visits").text
    outer, statements = told(exporter)

    assert "GET /visits" == outer.name
    assert ["SELECT", "UPDATE"] == [each.split()[0] for each in statements]


def test_no_value_is_in_a_span(app: Flask, exporter: InMemorySpanExporter) -> None:
    """Nor is a token, also where a request has failed."""
    client = app.test_client()
    visit(client, lambda: str(session.update(name="hush-hush")))

    def store_object() -> str:
        session["bad"] = object()
        return "ok"

    assert 500 == visit(client, store_object).status_code
    text = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "SessionValueError" in text
    assert "hush-hush" not in text
    assert token(client) not in text
    assert rows(app)[0].id.hex() not in text


def test_a_page_without_a_session_has_no_statement(
    app: Flask, exporter: InMemorySpanExporter
) -> None:
    """It is a span of its own."""
    app.test_client().get("/")
    assert [] == told(exporter)[1]
