"""The checks of this project. ``sh tools/nox.sh`` runs them all."""

from __future__ import annotations

import os
import shutil
import tempfile
from itertools import chain
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
LATEST = PYTHONS[-1]

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
# A newcomer may have one Python; who must not overlook one has this set.
nox.options.error_on_missing_interpreters = bool(os.environ.get("CI"))
os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
# Many tests start processes, which would compile everything they import each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

#: More workers than cores: mostly they wait for a database. What drives a browser, what
#: is tried with other packages, and whole sites that move have sessions of their own.
AT_ONCE = ["--numprocesses=4", "--dist=worksteal"]
APART = ("browser", "documentation/browser", "neighbours", "moving")
AT_ONCE += [f"--ignore=tests/{name}" for name in APART]
#: What the last Python runs alone: the tools and the pages, which are not part of the
#: package.
LAST_ONLY = ("integration/test_quickstart.py", "documentation", "tutorials")
NO_TOOLS = [*AT_ONCE, *(f"--ignore=tests/{name}" for name in LAST_ONLY)]
#: The databases take time. The last Python has them in every test, and the lowest
#: versions of the drivers in those that are about statements.
#: Another Python changes little of what whole requests do: the lowest versions of all
#: and the drivers run them on the other Pythons.
NO_FILES = [*NO_TOOLS, "-m", "not postgresql and not mariadb and not sqlite_file"]
NO_REQUESTS = [*NO_FILES, "--ignore=tests/integration"]
STATEMENTS = [
    "tests/commands/test_checks.py",
    "tests/commands/test_cli.py",
    "tests/commands/test_server_checks.py",
    "tests/storage",
    "tests/test_extension.py",
    "tests/integration/test_concurrency.py",
    "tests/integration/test_revocation.py",
    "tests/integration/test_statements.py",
]
#: Of the lowest versions.
FEW_DATABASES = "postgresql or mariadb or sqlite_file"
FEW_SERVERS = [*AT_ONCE, "-m", FEW_DATABASES, *STATEMENTS]
PROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, editable: bool = True) -> None:
    """Install the project and the dependency groups that are named."""
    requirements = nox.project.dependency_groups(PROJECT, *groups) if groups else []
    session.install(*(["-e", "."] if editable else ["."]), *requirements)


def coverage_file(session: nox.Session) -> dict[str, str]:
    """A place for what this session measures, beside those of the others."""
    folder = Path(session.virtualenv.location).parent
    return {"COVERAGE_FILE": str(folder / f".coverage.{session.name}")}


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and that imports run downward only."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session(python=LATEST)
def typing(session: nox.Session) -> None:
    """The types: mypy on all there is, pyright on what users of the package see."""
    # pyright takes an installed package for typed, not an editable one.
    install(session, "typing", editable=False)
    session.run("mypy")
    session.run("pyright", "typing_tests")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "flask_sessionsql")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, on each supported Python; the last one has all databases and whole
    requests, and asks for full coverage.
    """
    if session.python != LATEST:
        install(session, "tests")
        session.run("pytest", *(session.posargs or NO_REQUESTS))
        return
    install(session, "tests", "docs")
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    env = coverage_file(session)
    coverage = ["--cov", "--cov-report="]
    session.run("pytest", *AT_ONCE, "-m", "not site", *coverage, env=env)
    session.run("coverage", "report", env=env)


@nox.session(python=PYTHONS[0])
def tests_min(session: nox.Session) -> None:
    """The tests with the lowest versions that are allowed to users."""
    project = PROJECT["project"]
    ranges = [
        *project["dependencies"],
        *chain(*project["optional-dependencies"].values()),
    ]
    lowest = [requirement.replace(">=", "==") for requirement in ranges]
    tools = nox.project.dependency_groups(PROJECT, "tests")
    session.install("-e", ".", *lowest, *tools)
    session.run("pytest", *(session.posargs or NO_FILES))
    if not session.posargs:
        session.run("pytest", *FEW_SERVERS)


#: What the drivers' session runs: the life of a session, and what drivers differ in.
OF_DRIVERS = [
    "tests/integration/test_drivers.py",
    "tests/integration/test_moving.py",
    "tests/storage/test_connections.py",
    "tests/storage/test_errors.py",
]
LOWEST_DRIVERS = [
    "sqlalchemy==2.0.43",
    "psycopg[binary]==3.2.4",
    "pymysql==1.1.1",
    "pg8000==1.31.2",
]


@nox.session(python="3.12")
@nox.parametrize("versions", ["lowest", "newest"])
def drivers(session: nox.Session, versions: str) -> None:
    """The life of a session on each driver of the servers, with the lowest and the
    newest versions; the latter also on the newest PostgreSQL.
    """
    if shutil.which("mariadb_config") is None and not os.environ.get("CI"):
        session.skip(
            "Two drivers are compiled, with MariaDB's client. Install it and a C"
            " compiler, such as Debian's libmariadb-dev and gcc."
        )
    install(session, "tests", "drivers")
    if versions == "lowest":
        session.install(*LOWEST_DRIVERS)
    env = {"SESSIONSQL_REQUIRE_DRIVERS": "1"}
    at_once = ["--numprocesses=4", "--dist=worksteal"]
    session.run("pytest", *at_once, *(session.posargs or OF_DRIVERS), env=env)
    if versions == "newest" and not session.posargs:
        newest = ["pytest", *at_once, "-m", "postgresql", *OF_DRIVERS]
        session.run("python", "tools/postgresql18.py", *newest, env=env)


#: Where the site is.
SITE = "docs/_build/html"


def build_site(session: nox.Session) -> None:
    """Build the whole site: of pages that have not changed, Sphinx's search forgets the
    keywords.
    """
    session.run("sphinx-build", "-q", "-W", "-n", "-E", "-j", "auto", "docs", SITE)


def need_site(session: nox.Session) -> None:
    """Build the site, unless the session docs has just done so, as in ``.ci/run``."""
    if not (os.environ.get("CI") and Path(SITE, "index.html").exists()):
        build_site(session)


@nox.session(python=LATEST)
def docs(session: nox.Session) -> None:
    """The documentation, without a warning, and what its pages must be."""
    install(session, "docs", "tests")
    build_site(session)
    at_once = ["--numprocesses=auto", "--dist=worksteal"]
    tests = ["-m", "site", "tests/documentation"]
    apart = "--ignore=tests/documentation/browser"
    session.run("pytest", *at_once, apart, *tests, env={"SESSIONSQL_SITE": SITE})
    session.log(f"Open {Path(SITE, 'index.html').resolve()}")


@nox.session(default=False, python=LATEST)
def docs_live(session: nox.Session) -> None:
    """The documentation on a local port, built again at each change: ``-- --port 8001``
    for another port.
    """
    install(session, "docs-live")
    watched = ["--watch", "flask_sessionsql", "--watch", "benchmarks/results"]
    options = ["-n", *watched, *session.posargs]
    session.run("sphinx-autobuild", *options, "docs", "docs/_build/live")


@nox.session(python=LATEST)
def site(session: nox.Session) -> None:
    """The site, read with a real browser: what the search finds, what is copied, and
    that everybody can read it.
    """
    install(session, "site")
    need_site(session)
    tests = session.posargs or ["tests/documentation/browser"]
    at_once = ["--numprocesses=2", "--dist=worksteal"]
    session.run("pytest", *at_once, *tests, env={"SESSIONSQL_SITE": SITE})


@nox.session(python=LATEST)
def doctest(session: nox.Session) -> None:
    """The examples in the documentation, the quickstart among them."""
    install(session, "docs")
    with tempfile.TemporaryDirectory() as output:
        session.run("sphinx-build", "-W", "-n", "-b", "doctest", "docs", output)


@nox.session(python=LATEST)
def quickstart(session: nox.Session) -> None:
    """The quickstart, as written, on a real server, and what a browser gets."""
    install(session)
    session.run("python", "tools/quickstart.py", *session.posargs)


@nox.session(python=LATEST)
def browser(session: nox.Session) -> None:
    """The example, on a real server, visited with two profiles of a real browser."""
    install(session, "browser")
    # They mostly wait: for servers, and for time to pass.
    at_once = ["--numprocesses=2", "--dist=worksteal"]
    session.run("pytest", *at_once, *(session.posargs or ["tests/browser"]))


#: The benchmarks whose figures the documentation shows.
BENCHMARKS = ["cost", "growth", "server", "startup", "purge"]


@nox.session(default=False, python=LATEST)
def benchmarks(session: nox.Session) -> None:
    """What sessions cost, beside what others' do: ``-- cost --help``. Without an
    argument, all that the documentation shows, which takes three quarters of an hour on
    a machine that does nothing else.
    """
    install(session, "benchmarks")
    if session.posargs:
        session.run("python", "-m", "benchmarks", *session.posargs)
        return
    for name in BENCHMARKS:
        results = f"benchmarks/results/{name}.json"
        session.run("python", "-m", "benchmarks", name, "--json", results)
    session.run("python", "-m", "benchmarks", "figures")


@nox.session(python=LATEST)
def benchmarks_quick(session: nox.Session) -> None:
    """Each benchmark for a few seconds: it runs, and its peers do what is compared."""
    if not os.environ.get("SESSIONSQL_REQUIRE_SERVERS"):
        session.skip(
            "It needs PostgreSQL, MariaDB and Redis. Start them, and set"
            " SESSIONSQL_REQUIRE_SERVERS=1"
        )
    install(session, "benchmarks", "docs", "tests")
    for name in BENCHMARKS:
        # They fill tables on each database, which takes longest.
        few = ["--database", "sqlite"] if name in {"growth", "purge"} else []
        session.run("python", "-m", "benchmarks", name, "--quick", *few)
    need_site(session)
    tests = "tests/documentation/test_benchmarks.py"
    session.run("pytest", tests, env={"SESSIONSQL_SITE": SITE})


@nox.session(default=False, python=LATEST)
def neighbours(session: nox.Session) -> None:
    """What the pages say of other packages that use sessions, tried with them."""
    install(session, "neighbours")
    # What Dash has for tests of its own is older than pytest's hooks are now.
    options = ["--numprocesses=4", "--dist=worksteal", "-p", "no:dash"]
    session.run("pytest", *options, *(session.posargs or ["tests/neighbours"]))


#: The versions of Flask-Session whose sessions are taken over, or left.
FLASK_SESSIONS = ["0.5.0", "0.6.0", "0.7.0", "0.8.0"]


@nox.session(default=False, python=LATEST)
def moving(session: nox.Session) -> None:
    """Sites of a thousand browsers, with each version of Flask-Session, move while the
    servers are killed.
    """
    install(session, "tests")
    with tempfile.TemporaryDirectory() as folder:
        for version in FLASK_SESSIONS:
            target = [f"--target={folder}/{version}", "--no-deps"]
            session.install(*target, f"flask-session=={version}")
        env = {"SESSIONSQL_FLASK_SESSIONS": folder, "SESSIONSQL_BROWSERS": "1000"}
        session.run("pytest", "-n2", *(session.posargs or ["tests/moving"]), env=env)


@nox.session(default=False, python=PYTHONS[0])
def suites(session: nox.Session) -> None:
    """The test suites of extensions that use sessions, on Flask's sessions and on ours:
    ``-- Flask-Admin`` for one of them.
    """
    # On the first Python Flask-Admin's tests listen to all engines of SQLAlchemy.
    install(session, "suites")
    session.run("python", "tools/suites.py", *session.posargs)


@nox.session(python=LATEST)
def dist(session: nox.Session) -> None:
    """The wheel and the sdist: sound, and the sdist's own tests run."""
    install(session, "dist", "tests", editable=False)
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--installer=uv", "--outdir", folder)
        files = sorted(map(str, Path(folder).iterdir()))
        session.run("twine", "check", "--strict", *files)
        (archive,) = Path(folder).glob("*.tar.gz")
        shutil.unpack_archive(archive, folder, filter="data")
        (wheel,) = Path(folder).glob("*.whl")
        session.install("--reinstall-package=flask-sessionsql", str(wheel))
        (unpacked,) = (path for path in Path(folder).iterdir() if path.is_dir())
        with session.chdir(unpacked):
            # Against the wheel that is installed, not the folder beside the tests.
            shutil.rmtree("flask_sessionsql")
            session.run("pytest", *AT_ONCE, "-m", "sqlite_memory")
