"""Run the test suites of extensions that use sessions, on Flask's own sessions and on
ours: no test that passes on Flask's may fail on ours, but for those in ``REVIEWED``.

It is a plugin of pytest as well, which sets up our sessions in each application that a
suite makes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from flask import Flask
from flask.ctx import RequestContext
from flask.sessions import SecureCookieSessionInterface
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session


@dataclass(frozen=True)
class Suite:
    """The tests of a package, as its source distribution has them."""

    requirement: str
    tests: str
    #: What needs servers that nobody here has, relative to ``tests``.
    without: tuple[str, ...] = ()


SUITES = {
    "Flask-Admin": Suite(
        "flask-admin==2.2.1",
        "flask_admin/tests",
        # MongoDB, PostGIS, Azure's storage, and a PostgreSQL with a password.
        (
            "fileadmin/test_fileadmin_azure.py",
            "geoa",
            "mongoengine",
            "pymongo",
            "sqla/test_postgres.py",
        ),
    ),
    "Flask-Security": Suite("flask-security==5.9.2", "tests"),
}

READS_COOKIE = (
    "It decodes the cookie itself, in which Flask's sessions keep what they hold. Ours"
    " has a random token. What the test then asserts is in the row."
)

#: Tests that pass on Flask's sessions and cannot on ours, as ``suite::module::test``,
#: without parameters, each with its reason.
REVIEWED: dict[str, str] = {
    f"Flask-Security::tests.{test}": READS_COOKIE
    for test in (
        "test_basic::test_remember_fresh",
        "test_changeable::test_change_invalidates_session",
        "test_csrf::test_login_csrf_json",
        "test_oauthglue::test_simple_next",
        "test_oauthglue::test_verify",
        "test_oauthglue::test_verify_evil_user",
        "test_oauthglue::test_verify_unknown_user",
        "test_tf_plugin::test_tf_select",
        "test_tf_plugin::test_tf_select_json",
        "test_two_factor::test_admin_setup_reset",
        "test_two_factor::test_csrf_2fa_login_cookie",
        "test_two_factor::test_datastore",
        "test_two_factor::test_evil_validate",
        "test_two_factor::test_json",
        "test_two_factor::test_opt_in",
        "test_two_factor::test_opt_in_state_token",
        "test_two_factor::test_opt_out_json",
        "test_two_factor::test_setup_bad_phone",
        "test_two_factor::test_totp_secret_generation",
        "test_two_factor::test_two_factor_flag",
        "test_unified_signin::test_csrf_2fa_us_cookie",
        "test_webauthn::test_tf_validity_window",
    )
}


# The plugin.


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--our-sessions`` turns it on."""
    parser.addoption("--our-sessions", action="store_true", help="set them up")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is collected, in each worker of pytest-xdist."""
    if config.getoption("--our-sessions"):
        set_up_each_application()


#: The applications that have been set up in the current test.
_set_up: list[str] = []


def set_up_each_application() -> None:
    """Call ``Session(app)`` for each application before its first request."""
    make_context = Flask.request_context

    def request_context(self: Flask, environ: dict[str, Any]) -> RequestContext:
        # Some give an application an interface of their own, which stays.
        if type(self.session_interface) is SecureCookieSessionInterface:
            set_up(self)
        return make_context(self, environ)

    Flask.request_context = request_context  # type: ignore[method-assign]


def set_up(app: Flask) -> None:
    """Give an application our sessions: in its own database, if it has one by
    Flask-SQLAlchemy, and otherwise in memory.
    """
    app.config.setdefault("SESSION_TYPE", "flask-sqlalchemy")
    if not isinstance(app.extensions.get("sqlalchemy"), SQLAlchemy):
        app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    Session(app)
    _set_up.append(app.name)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Let the report say how many applications had our sessions in a test."""
    item.user_properties.append(("sessions", len(_set_up)))
    _set_up.clear()


# The command.


class NeighbourError(Exception):
    """A suite cannot be fetched or run."""


def fetch(suite: Suite, folder: Path) -> Path:
    """The unpacked source distribution of a suite."""
    name = suite.requirement.partition("==")[0]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download")
    subprocess.run(
        [*pip, "--quiet", "--no-deps", "--no-binary", name, suite.requirement],
        cwd=folder,
        check=True,
    )
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def run(suite: Suite, folder: Path, *options: str) -> dict[str, bool]:
    """Run a suite; tells of each test that ran, except those that were skipped or were
    expected to fail, whether it passed.
    """
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    ignored = (f"--ignore={suite.tests}/{path}" for path in suite.without)
    arguments = (*options, "--quiet", "--tb=short")
    with (folder / f"output{''.join(options)}.txt").open("w") as output:
        status = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-p", "neighbours", *arguments),
                *("--numprocesses=4", "--dist=worksteal", f"--junit-xml={report}"),
                *(*ignored, suite.tests),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            stdout=output,
            stderr=subprocess.STDOUT,
        ).returncode
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise NeighbourError(Path(output.name).read_text())
    found = outcomes(report)
    sessions = f"{used(report)} of them on our sessions"
    print(f"{suite.requirement}: {len(found)} tests, {sessions}", flush=True)
    return found


def outcomes(report: Path) -> dict[str, bool]:
    """Whether each test passed, from a report of pytest's."""
    found: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" not in kinds:
            name = f"{case.get('classname')}::{case.get('name')}"
            passed = kinds.isdisjoint({"failure", "error"})
            # One that passed and whose teardown failed is there twice.
            found[name] = found.get(name, True) and passed
    return found


def used(report: Path) -> int:
    """How many tests made requests to an application with our sessions."""
    properties = ElementTree.parse(report).iter("property")
    return sum(
        found.get("name") == "sessions" and found.get("value") != "0"
        for found in properties
    )


def compare(name: str, theirs: dict[str, bool], ours: dict[str, bool]) -> bool:
    """Print what came of a suite; whether it is as it should be."""
    for sessions, found in (("Flask's", theirs), ("our", ours)):
        passed = sum(found.values())
        failed = len(found) - passed
        print(f"{name} on {sessions} sessions: {passed} passed, {failed} failed")
    worse = {
        f"{name}::{test}".partition("[")[0]
        for test, passed in theirs.items()
        if passed and not ours.get(test, False)
    }
    reviewed = {test for test in REVIEWED if test.startswith(f"{name}::")}
    print(f"{name}: {len(worse & reviewed)} that are in the list fail, as they must")
    for test in sorted(worse - reviewed):
        print(f"  fails on our sessions only: {test}")
    for test in sorted(reviewed - worse):
        print(f"  does not fail any more, take it out of the list: {test}")
    return worse == reviewed


def check(name: str) -> bool:
    """Fetch a suite, run it on both kinds of sessions, and print what came of it."""
    suite, began = SUITES[name], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        unpacked = fetch(suite, Path(folder))
        theirs = run(suite, unpacked)
        ours = run(suite, unpacked, "--our-sessions")
        good = compare(name, theirs, ours)
        if not good:
            print((unpacked / "output--our-sessions.txt").read_text())
    print(f"{name}: {time.monotonic() - began:.0f} seconds", flush=True)
    return good


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("suite", nargs="*", help=f"any of {', '.join(SUITES)}")
    chosen = parser.parse_args(arguments).suite or list(SUITES)
    if unknown := set(chosen).difference(SUITES):
        parser.error(f"There is no suite of that name: {', '.join(sorted(unknown))}")
    results = [check(name) for name in chosen]  # all of them, whatever the first says
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
