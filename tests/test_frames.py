from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from flask_sessionsql.frames import empty_frames, unseen


def below(name: str) -> Callable[[object], None]:
    """A function of the module ``name``, which fails with a value in its frame."""
    names: dict[str, object] = {"__name__": name}
    exec("def fail(value):\n    raise LookupError('no value')", names)
    return names["fail"]  # type: ignore[return-value]


def caught(act: Callable[[], object]) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("It has not failed.")


def held(error: BaseException | None) -> list[str]:
    """The functions whose frames hold the value, from the top."""
    assert error is not None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [frame.f_code.co_name for frame in frames if "hush" in repr(frame.f_locals)]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("flask_sessionsql.saving.planning", []),
        ("sqlalchemy.engine.base", []),
        ("flask_sessionsql_shop", ["fail"]),
        ("shop", ["fail"]),
    ],
)
def test_frames_of_the_package_are_emptied(name: str, left: list[str]) -> None:
    """And those of what it calls; the application's stay, and all lines do."""
    fail = below(name)
    error = caught(lambda: fail("hush"))
    lines = len(traceback.extract_tb(error.__traceback__))
    assert held(error) == ["fail"]
    empty_frames(error)
    assert held(error) == left
    assert len(traceback.extract_tb(error.__traceback__)) == lines


@pytest.mark.parametrize("way", ["cause", "context"])
def test_errors_that_it_came_from_are_emptied_as_well(way: str) -> None:
    """However many there are, and though one of them leads back to the first."""
    first = caught(lambda: below("sqlalchemy.engine")("hush"))
    second = caught(lambda: below("shop")("hush"))
    error = RuntimeError("failed")
    if way == "cause":
        error.__cause__, second.__context__, first.__context__ = second, first, error
    else:
        error.__context__, second.__cause__, first.__cause__ = second, first, error
    empty_frames(error)
    assert (held(first), held(second)) == ([], ["fail"])


def test_a_method_is_as_it_was() -> None:
    """It gives what it gives, and fails as it does; only its arguments do not show."""

    @unseen
    def divide(number: int, *, by: int, name: str) -> float:
        """Docstring."""
        return number / by

    assert divide(6, by=3, name="hush") == 2
    assert (divide.__name__, divide.__doc__) == ("divide", "Docstring.")
    error = caught(lambda: divide(6, by=0, name="hush"))
    assert type(error) is ZeroDivisionError
    assert "call" not in held(error)
