"""Values as JSON, from which each comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_sessionsql.formats.documents import from_value, to_value
from flask_sessionsql.formats.serializers import MsgpackSerializer

from .test_serializers import TAGGED, VALUES, show


@pytest.mark.parametrize("value", [*VALUES, *TAGGED], ids=show)
def test_each_comes_back(value: Any) -> None:
    """What a session keeps comes back equal and of its type, by way of JSON."""
    serializer = MsgpackSerializer()
    stored = serializer.dumps({"value": value})
    kept = serializer.loads(stored)
    text = json.dumps(from_value(kept), allow_nan=False)

    assert text.isascii()
    assert serializer.dumps(to_value(json.loads(text))) == stored


@pytest.mark.parametrize(
    "document",
    [
        {"$type": "tuple"},
        {"$type": "os.system", "value": "x"},
        {"$type": "date", "value": 1},
        {"$type": "Decimal", "value": "x"},
        {"$type": "bytes", "value": "?"},
        {"$type": ["x"], "value": "x"},
    ],
)
def test_what_is_no_exported_value(document: Any) -> None:
    """It is refused, and its value not shown."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 -- of several kinds
        to_value(document)
    assert "system" not in str(refused.value)
