"""The page "Deploy to production": its files, as written, on real servers."""

from __future__ import annotations

import datetime as dt
import http.client
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.conftest import MakeDatabase
from tests.helpers import at_once
from tests.throwaway import free_port, program, running, user
from tests.tutorials.walk import walked

from .source import block

pytestmark = pytest.mark.postgresql

HOST = "shop.example.com"
#: Where the browser is: another address of this machine than nginx's.
BROWSER = "127.0.0.7"
PROGRAMS = Path(sys.executable).parent
#: Seconds for an answer, and for what is typed.
PATIENCE = 300

BLOCKS = walked("guides/production")
#: What is typed before the site starts, and once it is there.
TYPED = [each.text for each in BLOCKS if not each.caption]
BEFORE = [text for text in TYPED if "https://" not in text]
OUTSIDE = [text for text in TYPED if "https://" in text]
CREATE = "$ flask --app shop sessions create-table\n"

#: What nginx has around the page's file on Debian, in a folder of its own.
AROUND = """
daemon off; {user} pid {folder}/nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
    fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    include {folder}/nginx.conf;
}}
"""


@dataclass(frozen=True)
class Answer:
    """What a browser gets."""

    status: int
    headers: http.client.HTTPMessage
    text: str


class Site:
    """The page's files in a folder, with what has to be another one here replaced."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri
        self.port, self.plain, self.secure = free_port(), free_port(), free_port()
        to = "127.0.0.1"
        seen = f"--interface {BROWSER} --cacert {folder}/fullchain.pem"
        for known, port in ((443, self.secure), (80, self.plain)):
            seen += f" --connect-to {HOST}:{known}:{to}:{port}"
        self._others = {
            "postgresql+psycopg://shop:PASSWORD@db/shop": uri,
            f"{to}:8000": f"{to}:{self.port}",
            "listen 80;": f"listen {to}:{self.plain};",
            "listen 443 ssl;": f"listen {to}:{self.secure} ssl;",
            "/etc/ssl/shop/": f"{folder}/",
            "/srv/shop/venv/bin/": f"{PROGRAMS}/",
            "/srv/shop": f"{folder}",
            "$ curl ": f"$ curl {seen} ",
            "203.0.113.9": BROWSER,
        }
        for each in BLOCKS:
            if each.caption:
                (folder / each.caption).write_text(self.here(each.text), "utf-8")
        write_certificate(folder)

    def here(self, text: str) -> str:
        for given, other in self._others.items():
            text = text.replace(given, other)
        return text

    def type(self, *consoles: str) -> tuple[list[str], list[str]]:
        """Type what consoles say, in one shell; what they show, and what it prints."""
        mark = "-- the next command --"
        parts = re.split(r"^\$ (.*)\n", self.here("".join(consoles)), flags=re.M)
        commands, shown = parts[1::2], parts[2::2]
        lines = [f'was=$?; echo "{mark}"; (exit $was); {line}' for line in commands]
        path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
        result = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=self.folder,
            env={**os.environ, "PATH": path, "no_proxy": "*"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        return shown, result.stdout.split(f"{mark}\n")[1:]

    def command(self, server: str) -> list[str]:
        """What starts the server, as systemd would."""
        if server == "uwsgi":
            return [f"{PROGRAMS}/uwsgi", "uwsgi.ini"]
        unit = (self.folder / "shop.service").read_text("utf-8")
        [started] = re.findall("^ExecStart=(.*)", unit, re.M)
        return [*started.split(), *server.split()[1:]]

    def environment(self) -> dict[str, str]:
        """That of the unit's ``EnvironmentFile``."""
        lines = (self.folder / "shop.env").read_text("utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        form: str | None = None,
        secure: bool = True,
    ) -> Answer:
        """What a browser is answered."""
        port = self.secure if secure else self.plain
        at = socket.create_connection(("127.0.0.1", port), PATIENCE, (BROWSER, 0))
        if secure:
            context = ssl.create_default_context(cafile=self.folder / "fullchain.pem")
            at = context.wrap_socket(at, server_hostname=HOST)
        with closing(http.client.HTTPConnection(HOST)) as connection:
            connection.sock = at
            sent = dict(headers or {})
            if form is not None:
                sent["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request("POST" if form else "GET", path, form, sent)
            response = connection.getresponse()
            return Answer(response.status, response.msg, response.read().decode())

    def asked(self, statement: str) -> object:
        """What the database answers."""
        engine = sa.create_engine(self.uri, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return connection.scalar(sa.text(statement))

    def connections(self) -> object:
        """How many connections others have to the database."""
        return self.asked(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid()"
        )


def write_certificate(folder: Path) -> None:
    """A certificate of the site's name, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "privkey.pem").write_bytes(private)


@pytest.fixture
def site(tmp_path: Path, make_empty_database: MakeDatabase) -> Site:
    """What is there before anything is typed."""
    return Site(tmp_path, make_empty_database("postgresql"))


@pytest.fixture
def serve(site: Site) -> Iterator[Callable[[str], None]]:
    """Starts a server, and nginx in front of it, once key and table are there."""
    nginx = program("nginx", "nginx")
    logs = site.folder / "logs"
    logs.mkdir()
    with ExitStack() as stack:

        def start(server: str) -> None:
            # As systemd does, by WorkingDirectory and EnvironmentFile.
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.chdir(site.folder)
            for name, value in site.environment().items():
                patch.setenv(name, value)
            command = site.command(server)
            stack.enter_context(running(command, site.folder, site.port, None))
            who = "user root;" if user("root") else ""
            around = AROUND.format(folder=site.folder, user=who)
            (site.folder / "around.conf").write_text(around)
            command = [nginx, "-e", "stderr", "-c", f"{site.folder}/around.conf"]
            stack.enter_context(running(command, logs, site.secure, None))

        yield start


def assert_shown(shown: list[str], printed: list[str]) -> None:
    """What is printed is what is shown, where ``…`` stands for anything."""
    wanted = [re.escape(text.strip()).replace("…", ".*") for text in shown]
    assert len(shown) == len(printed)
    for pattern, text in zip(wanted, printed, strict=True):
        assert re.fullmatch(pattern, text.replace("\r", "").strip()), printed


def test_what_is_typed(site: Site, serve: Callable[[str], None]) -> None:
    """The commands print what the page shows, before the site starts and once it is
    there, and nobody else can read the key.
    """
    program("curl", "curl")

    assert_shown(*site.type(*BEFORE))
    assert 0o600 == (site.folder / "shop.env").stat().st_mode & 0o777
    serve("gunicorn")
    assert_shown(*site.type(*OUTSIDE))


@pytest.mark.parametrize("server", ["gunicorn", "gunicorn --preload", "uwsgi"])
def test_what_users_see(site: Site, serve: Callable[[str], None], server: str) -> None:
    """Who logs in gets a ``__Host-`` cookie, https in every address, and the browser's
    own address in the row. Nothing is connected to before, and no more than the page
    says afterwards.
    """
    site.type(*BEFORE[:1], "$ set -a; . ./shop.env\n", CREATE)
    serve(server)
    assert 0 == site.connections()
    assert "Set-Cookie" not in site.ask("/").headers

    login = site.ask("/login", form="name=ann")
    cookie, *attributes = login.headers["Set-Cookie"].split("; ")
    assert (302, f"https://{HOST}/") == (login.status, login.headers["Location"])
    assert re.fullmatch(r"__Host-session=[\w-]{43,}", cookie)
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} == {
        each for each in attributes if not each.startswith("Expires=")
    }
    said = f"Hello ann, at https://{HOST}/ from {BROWSER}\n"
    ann = {"Cookie": cookie}
    assert said == site.ask("/", ann).text
    assert BROWSER == site.asked("SELECT address FROM flask_sessionsql")
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Host": "example.org"}
    assert said == site.ask("/", ann | forged).text
    assert 400 == site.ask("/", {"Host": "example.org"}).status
    (site.folder / "static").mkdir()
    (site.folder / "static/shop.css").write_text("body {}")
    style = site.ask("/static/shop.css", ann)
    assert (200, "body {}") == (style.status, style.text)
    assert "Vary" not in style.headers  # it is nginx's
    plain = site.ask("/", secure=False)
    assert (301, f"https://{HOST}/") == (plain.status, plain.headers["Location"])

    answers = at_once([lambda: site.ask("/", ann).text] * 30)
    assert [said] * 30 == answers
    assert site.connections() in range(1, 3 * 8 + 1)


def test_unit(site: Site) -> None:
    """systemd has nothing to say against it."""
    verify = program("systemd-analyze", "systemd")
    result = subprocess.run(
        [verify, "verify", "--man=no", f"{site.folder}/shop.service"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, "") == (result.returncode, result.stderr)


def test_a_new_database(site: Site) -> None:
    """With the page's steps the site's user has all rights that it needs, also on a
    table of the application, and can create none.
    """
    name = f"shop_{secrets.token_hex(6)}"
    admin = sa.make_url(site.uri)
    uri = admin.set(database=name)

    def run(engine: sa.Engine, statements: str) -> None:
        with engine.connect() as connection:
            for each in filter(str.strip, statements.split(";")):
                connection.execute(sa.text(re.sub(r"\bshop\b", name, each)))

    def engine(at: sa.URL) -> sa.Engine:
        return sa.create_engine(at, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")

    def text(name: str) -> str:
        return (site.folder / name).read_text("utf-8")

    owner = uri.render_as_string(hide_password=False)
    shop = uri.set(username=name, password="PASSWORD")
    as_shop = shop.render_as_string(hide_password=False)
    command = f"$ SECRET_KEY={'x' * 64} DATABASE_URI="
    try:
        run(engine(admin), text("database.sql"))
        site.type(f"{command}{owner} flask --app shop sessions create-table\n")
        run(engine(uri), "CREATE TABLE books (id serial)")
        run(engine(uri), text("grants.sql"))
        _, [printed] = site.type(
            f"{command}{as_shop} flask --app shop sessions check\n"
        )
        assert "Nothing is wrong.\n" == printed
        run(engine(shop), "INSERT INTO books DEFAULT VALUES")
        with pytest.raises(sa.exc.ProgrammingError, match="permission denied"):
            run(engine(shop), "CREATE TABLE more (id serial)")
    finally:
        run(engine(admin), "DROP DATABASE shop; DROP ROLE shop")


def test_with_flask_login(site: Site) -> None:
    """The file of the guide to logins, with the settings of this page, adds a user and
    passes the check.
    """
    ours = (site.folder / "shop.py").read_text("utf-8")
    theirs = block("guides/logins", "shop.py")
    settings = ours[ours.index("logging.basicConfig") : ours.index("db = SQLAlchemy")]
    last = "app.config.from_prefixed_env()"
    begin, rest = theirs.split("app = Flask(__name__)\n")
    rest = rest[rest.index("\n", rest.index(last)) :]
    imports = (site.folder / "imports.py").read_text("utf-8")
    (site.folder / "shop.py").write_text(imports + begin + settings + rest, "utf-8")

    site.type(*BEFORE[:1])
    shown, printed = site.type(
        "$ set -a; . ./shop.env\n",
        '$ flask --app shop add-user ann --password "a long one"\nAdded ann.\n',
        "$ flask --app shop sessions check\nNothing is wrong.\n",
    )
    assert_shown(shown, printed)
