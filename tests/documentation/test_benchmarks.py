"""The benchmarks, and the pages that show their figures: all of them were measured."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.pages import DOCS, page

from .site import Page

pytest.importorskip("sphinx", reason="the nox session docs installs it")

from benchmarks import __main__ as runner
from benchmarks import blocks, figures, results
from docs import measured

#: All of them: they read what Sphinx's extension says.
pytestmark = pytest.mark.site

ROOT = DOCS.parent
#: The benchmarks whose figures the page shows.
ON_PAGE = sorted({benchmark for benchmark, _ in measured.SHOWN.values()})
#: Calls the command of the benchmarks.
Run = Callable[..., tuple[object, str, str]]
#: What the benchmarks import: the nox session benchmarks installs it.
PEERS = ("gunicorn", "psycopg", "pymysql", "redis")


def document(name: str) -> dict[str, Any]:
    """The figures of a benchmark that the page shows."""
    return results.load(measured.path_of(name, results.RESULTS))


def words(lines: list[str]) -> str:
    return "\n".join(lines)


# The figures.


@pytest.mark.parametrize("name", ON_PAGE)
def test_figures_say_where_they_come_from(name: str) -> None:
    """Each file names its benchmark, the day, the machine and the versions, and
    neither a host nor a path.
    """
    found = document(name)

    assert name == found["name"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert {"cores", "python", "platform"} == found["machine"].keys()
    assert {"Flask", "SQLAlchemy"} <= found["versions"].keys()
    assert not re.search(r'"/|/(home|root|tmp)\b|://|@', json.dumps(found))


def test_figures_of_other_databases_are_kept(tmp_path: Path) -> None:
    """One database, or one part of a server, measured alone leaves what was measured
    on the others, each in its place.
    """
    path = tmp_path / "figures.json"
    before = {
        "versions": {"Redis": "7", "Flask": "3"},
        "databases": [{"database": "SQLite 3.40"}, {"database": "PostgreSQL 15"}],
        "parts": [{"part": "sqlite", "database": "SQLite"}, {"part": "plain"}],
    }
    after = {
        "versions": {"Flask": "4"},
        "databases": [{"database": "SQLite 3.41"}],
        "parts": [{"part": "plain", "now": True}],
    }
    results.write(path, before)
    results.write(path, after)

    assert results.load(path) == {
        "versions": {"Redis": "7", "Flask": "4"},
        "databases": [{"database": "SQLite 3.41"}, {"database": "PostgreSQL 15"}],
        "parts": [
            {"part": "sqlite", "database": "SQLite"},
            {"part": "plain", "now": True},
        ],
    }


def test_missing_figures_are_named(tmp_path: Path) -> None:
    """Without the figures there is no page, and the error says how to make them."""
    with pytest.raises(measured.MissingFiguresError) as caught:
        measured.path_of("cost", tmp_path)

    assert "cost.json" in str(caught.value)
    assert "sh tools/nox.sh -s benchmarks -- cost --json" in str(caught.value)


# The pictures.


@pytest.mark.parametrize("name", sorted(figures.DRAWN))
def test_pictures_are_of_these_figures(name: str) -> None:
    """Each picture's metadata hold the digest of the figures that the page shows."""
    rows = document(name)[figures.DRAWN[name][1]]
    pictures = sorted(figures.PICTURES.glob(f"{name}-*.svg"))

    assert len(pictures) >= 4
    for picture in pictures:
        assert f"sha256:{figures.digest(rows)}" in picture.read_text("utf-8"), (
            f"{picture.name} is of other figures: sh tools/nox.sh -s benchmarks --"
            " figures"
        )


def test_digests_are_of_every_figure() -> None:
    """Another figure has another digest."""
    cases = document("cost")["cases"]
    changed = deepcopy(cases)
    changed[-1]["overhead"] += 0.001

    assert figures.digest(cases) == figures.digest(deepcopy(cases))
    assert figures.digest(cases) != figures.digest(changed)


def test_all_pictures_are_drawn_for_both_themes(tmp_path: Path) -> None:
    """One command draws every picture that there is, light and dark."""
    code = runner.main(["figures", "--output", str(tmp_path)])
    drawn = {path.name for path in tmp_path.iterdir()}

    assert 0 == code
    assert {path.name for path in figures.PICTURES.iterdir()} == drawn
    assert {name.replace("-light", "-dark") for name in drawn if "-light" in name} == {
        name for name in drawn if "-dark" in name
    }


def test_pictures_without_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without figures nothing is drawn, and the command says what to run."""
    code = runner.main(["figures", "--results", str(tmp_path)])

    assert 1 == code
    assert "python -m benchmarks cost --json" in capsys.readouterr().err


# The page.


def leaves(node: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The places of all numbers of a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(value, (dict, list)):
            yield from leaves(value, *path, key)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield (*path, key)


#: What stands in a cell or a sentence, and nowhere in the figures by chance.
MARK = 987_654_321.0


@contextmanager
def replaced(
    found: dict[str, Any], paths: list[tuple[Any, ...]], value: float
) -> Iterator[None]:
    """The document has another number in these places, as long as this lasts."""
    places = []
    for path in paths:
        node: Any = found
        for key in path[:-1]:
            node = node[key]
        places.append((node, path[-1], node[path[-1]]))
        node[path[-1]] = value
    yield
    for node, key, number in places:
        node[key] = number


def used_by(name: str, found: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The places of the figures that are shown under this name."""
    return [
        path
        for path in leaves(found)
        if re.fullmatch(USED[name], "/".join(map(str, path)))
    ]


#: What the page shows of each document.
USED = {
    "answer": r"cases/\d+/(overhead|to_ours)",
    "cost": r"cases/\d+/overhead",
    "larger": r"cases/\d+/overhead",
    "baskets": r"cases/\d+/overhead",
    "journals": r"cases/\d+/overhead",
    "targets": r"targets/\d+/(ours|most)",
    "growth": r"databases/\d+/(grown/\d+/(median|ratio|size)/.*"
    r"|steady/(hot_share|growth|inserted|purged|vacuums|(before|after)/.*))",
    "server": r"requests/\d+/(requests_per_second|p50_ms|p99_ms|failures)",
    "server-aims": r"aims/\d+/ratio",
    "purge": r"databases/\d+/"
    r"(rows|expired|clients|seconds|failures|median/.*|ratio/.*)",
    "starts": r"starts/\d+/(resident|milliseconds/(?!common).*)",
    "memory": r"memory/\d+/(slopes/(resident|blocks)|samples/\d+/.*)",
}


def test_what_is_measured_is_shown() -> None:
    """All that shows figures is on the page, and is tested here."""
    pages = "".join(path.read_text("utf-8") for path in DOCS.rglob("*.rst"))
    on_page = re.findall(r"^\.\. measured:: (\S+)$", pages, re.MULTILINE)

    assert sorted(measured.SHOWN) == sorted(on_page)
    assert {name for name in on_page if "setting" not in name} == USED.keys()


@pytest.mark.parametrize("name", sorted(USED))
def test_figures_on_the_page_are_the_measured_ones(name: str) -> None:
    """Another figure in the file is another one on the page, in one place or two."""
    found = document(measured.SHOWN[name][0])
    before = words(measured.shown(name, found))
    used = used_by(name, found)
    changes = 0
    for path in used:
        with replaced(found, [path], MARK):
            after = words(measured.shown(name, found))
        changed = [
            new
            for old, new in zip(before.splitlines(), after.splitlines(), strict=True)
            if old != new
        ]
        assert len(changed) <= 2, path
        changes += bool(changed)
    assert changes
    # The others show some of the cases each, or some of the looks.
    if name not in {"answer", "cost", "larger", "baskets", "journals", "memory"}:
        assert len(used) == changes


@pytest.mark.parametrize("name", sorted(USED))
def test_no_figure_is_written_by_hand(name: str) -> None:
    """With all figures replaced, no decimal in a table is what it was."""
    found = document(measured.SHOWN[name][0])
    before = decimals(name, found)
    with replaced(found, used_by(name, found), MARK):
        after = decimals(name, found)

    assert set() == before & after - AIMS


#: Decimals that are not measured: what is aimed at.
AIMS = {"0.95", "1.00", "4.00", "2.50", "1.0", "15.0"}


def decimals(name: str, found: dict[str, Any]) -> set[str]:
    """The cells of the tables that are numbers with a decimal point."""
    text = words(measured.shown(name, found))
    return set(re.findall(r"^   [ *] - (-?[\d,]+\.\d+)$", text, re.MULTILINE))


def test_verdicts_follow_the_figures() -> None:
    """Whether an aim was met is what the figures say, and is never written by hand."""
    cost = document("cost")
    for target in cost["targets"]:
        target.update(ours=3.0, most=2.0, met=False)
    missed = words(measured.shown("targets", cost))
    for target in cost["targets"]:
        target.update(ours=1.0, most=2.0, met=True)
    met = words(measured.shown("targets", cost))
    number = len(cost["targets"])

    assert f"0 of {number} are met." in missed
    assert number == missed.count("- **not met**, 50.0 % over")
    assert f"{number} of {number} are met." in met
    assert number == met.count("- met, 50.0 % under")


def test_verdict_on_growth_follows_the_figures() -> None:
    """So it is with how the cost grows, with updates that are HOT, and with memory."""
    growth = document("growth")
    for result in growth["databases"]:
        for each in result["grown"]:
            each["ratio"] = dict.fromkeys(each["ratio"], 1.31)
        if result["steady"]:
            result["steady"]["hot_share"] = 0.89
    shown = words(measured.shown("growth", growth))
    startup = document("startup")
    for found in startup["memory"]:
        found["grown"] = ["files"]

    assert len(growth["databases"]) == shown.count("1.30 times is the aim: **not met**")
    assert "90.0 % is the aim: **not met**" in shown
    assert "was left of: files" in words(measured.shown("memory", startup))
    assert "Nothing has grown" not in words(measured.shown("memory", startup))


def test_sentence_on_untouched_sessions_follows_the_figures() -> None:
    """That nothing is sent is said only where nothing was sent."""
    cost = document("cost")
    for case in cost["cases"]:
        if (case["request"], case["contender"]) == ("untouched", "ours"):
            case["statements"] = []
    silent = words(measured.shown("answer", cost))
    for case in cost["cases"]:
        if (case["request"], case["contender"]) == ("untouched", "ours"):
            case["statements"] = ["SELECT"]

    assert "sends nothing to the database" in silent
    assert "sends nothing to the database" not in words(measured.shown("answer", cost))


def test_tries_are_told_from_measurements() -> None:
    """A file of ``--quick`` is never shown without a warning."""
    startup = document("startup")
    quick = measured.shown("startup-setting", {**startup, "quick": True})
    real = measured.shown("startup-setting", {**startup, "quick": False})

    assert ".. warning::" in words(quick)
    assert ".. warning::" not in words(real)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234.4, "1,234"),
        (9.96, "10.0"),
        (3.14, "3.1"),
        (-0.04, "0.0"),
        (-12.6, "-13"),
        (None, blocks.NO_FIGURE),
        (float("nan"), blocks.NO_FIGURE),
    ],
)
def test_numbers_are_rounded(value: float | None, shown: str) -> None:
    """Small figures have a decimal, and what was not measured has a dash."""
    assert shown == blocks.number(value)


def pictures_of(page: str) -> list[str]:
    """The tags of the pictures that follow the theme."""
    return [each for each in re.findall(r"<img [^>]*>", page) if 'class="only-' in each]


def test_answer_comes_first(pages: dict[str, Page]) -> None:
    """The page begins with its chart and three sentences, before any section."""
    page = pages["explanations/costs.html"].html
    body = page.partition("<h1>")[2].partition("<h2>")[0]
    text = " ".join(unescape(re.sub("<[^>]*>", "", body)).split())

    answer = [*filter(None, measured.shown("answer", document("cost")))]
    assert 3 == len(answer)
    for sentence in answer:
        assert sentence.replace("'", "’") in text  # noqa: RUF001 -- as Sphinx sets it
        assert 1 == len(re.findall(r"\.(?= |$)", sentence))
    assert len(pictures_of(body)) == 2
    assert body.index("<img") < body.index(answer[0][:30])


def test_charts_can_be_heard(pages: dict[str, Page]) -> None:
    """Every chart has a text for those who do not see it (WCAG 1.1.1), and there is one
    for each theme.
    """
    pictures = [each for page in pages.values() for each in pictures_of(page.html)]
    assert len(pictures) >= 12

    assert [] == [each for each in pictures if not re.search('alt="[^"]{30,}"', each)]
    light = [each for each in pictures if "only-light" in each]
    dark = [each for each in pictures if "only-dark" in each]
    assert len(light) == len(dark) == len(pictures) / 2


# How to run them again.


def commands() -> list[list[str]]:
    """The commands on the pages that run benchmarks, without what is before ``--``."""
    return [
        line.split()[6:]
        for name in ("costs", "measurements")
        for line in page(f"explanations/{name}").splitlines()
        if line.strip().startswith("$ sh tools/nox.sh -s benchmarks")
    ]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the command. Returns its exit code, what it prints, and its errors."""

    def call(*arguments: str) -> tuple[object, str, str]:
        missing = [name for name in PEERS if importlib.util.find_spec(name) is None]
        if missing:
            pytest.skip(
                f"The benchmarks need {', '.join(missing)}, which the nox session"
                " benchmarks installs"
            )
        with pytest.raises(SystemExit) as ended:
            runner.main([*arguments])
        return ended.value.code, *capsys.readouterr()

    return call


def test_benchmarks_are_listed(run: Run) -> None:
    """``--help`` lists each benchmark that there is."""
    code, shown, _ = run("--help")

    assert 0 == code
    for name, text in runner.BENCHMARKS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", shown, re.MULTILINE)
    runnable = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "\nBENCHMARK = " in path.read_text("utf-8")
    }
    assert {*runnable, "figures"} == runner.BENCHMARKS.keys()


def test_unknown_benchmark_is_refused(run: Run) -> None:
    """A name that there is not is an error that lists those that there are."""
    code, _, said = run("costs")

    assert 2 == code
    assert "cost" in said


@pytest.mark.parametrize("name", sorted(runner.BENCHMARKS))
def test_benchmarks_explain_themselves(name: str, run: Run) -> None:
    """Each has a help with its exit codes, and knows all that the page says of it."""
    code, shown, _ = run(name, "--help")

    assert 0 == code
    assert "exit code:" in shown
    options = {
        option
        for command in commands()
        if command[:1] == [name]
        for option in command
        if option.startswith("--")
    }
    assert set() == {option for option in options if option not in shown}


def test_commands_on_the_page_exist() -> None:
    """The page says how each of its files is made, by commands that there are."""
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    made = {command[0]: command[2] for command in commands() if "--json" in command}

    assert "def benchmarks(session: nox.Session)" in noxfile
    assert [] in commands()
    assert {command[0] for command in commands() if command} <= {
        "--help",
        *runner.BENCHMARKS,
    }
    assert made == {name: f"benchmarks/results/{name}.json" for name in ON_PAGE}


def test_documentation_needs_no_peers() -> None:
    """The page is built where no benchmark could run."""
    code = (
        "import sys\n"
        f"for name in {PEERS!r}: sys.modules[name] = None\n"
        "import docs.measured"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
