r"""Welcome to Flask-SessionSql's documentation.  Flask-SessionSql is an extension for
`Flask`_ that adds support for Server-side ``Session`` to your application.
Flask 3.1.3 or newer is required.

.. _Flask: https://flask.palletsprojects.com/

If you are not familiar with Flask, I highly recommend you to give it a try.
Flask is a microframework for Python and it is really Fun to work with.  If
you want to dive into its documentation, check out the following links:

-   `Flask Documentation <https://flask.palletsprojects.com/>`_

Installation
------------

Install the extension with the following command:

.. code-block:: console

    $ pip install Flask-SessionSql

That is enough for SQLite. For a database server, install its driver, too. For
PostgreSQL:

.. code-block:: console

    $ pip install "Flask-SessionSql[postgresql]"

For MariaDB:

.. code-block:: console

    $ pip install "Flask-SessionSql[mariadb]"

.. _quickstart:

Quickstart
----------

Flask-SessionSql is really easy to use.

Basically for the common use of having one Flask application all you have to
do is to create your Flask application, load the configuration of choice and
then create the :class:`Session` object by passing it the application.

You read and write your session through :class:`flask.session`; you need the
``Session`` instance only for calls on other sessions, such as
:meth:`~Session.revoke_user`. Write this into a file ``quickstart.py``:

.. testcode:: quickstart

    from flask import Flask, session
    from flask_sessionsql import Session

    app = Flask(__name__)
    # Check Configuration section for more details
    SESSION_TYPE = 'flask-sqlalchemy'
    SQLALCHEMY_DATABASE_URI = 'sqlite:////tmp/test.db'
    SQLALCHEMY_ECHO = False
    SECRET_KEY = \
            '\xfb\x12\xdf\xa1@i\xd6>V\xc0\xbb\x8fp\x16#Z\x0b\x81\xeb\x16'
    DEBUG = True

    app.config.from_object(__name__)
    Session(app)

    @app.route('/set/')
    def set():
        session['key'] = 'value'
        return 'ok'

    @app.route('/get/')
    def get():
        return session.get('key', 'not set')

Run it with:

.. code-block:: console

    $ flask --app quickstart run

Open http://127.0.0.1:5000/get/ in a browser, then ``/set/``, then ``/get/`` again.
Your browser shows:

.. testcode:: quickstart
    :hide:

    browser = app.test_client()
    for path in ('/get/', '/set/', '/get/'):
        print(browser.get(path).text)

.. testoutput:: quickstart

    not set
    ok
    value

Everybody knows the ``SECRET_KEY`` above, so make your own and put it in the file:

.. code-block:: console

    $ python -c 'import secrets; print(secrets.token_hex())'

You may also set up your application later using :meth:`~Session.init_app`
method:

.. testcode:: quickstart

    app = Flask(__name__)
    app.config.from_object(__name__)

    sess = Session()
    sess.init_app(app)
"""

from .exceptions import (
    NullSessionError,
    SessionConfigError,
    SessionConfigWarning,
    SessionConflictError,
    SessionError,
    SessionLimitError,
    SessionStoreUnavailableError,
    SessionTableError,
    SessionTooLargeError,
    SessionValueError,
    UnreadableSessionError,
)
from .extension import Session
from .interfaces import FlaskSQLAlchemySessionInterface, NullSessionInterface
from .sessions import ServerSideSession, session
from .signals import (
    SessionCreated,
    SessionEnded,
    SessionMerged,
    SessionRefused,
    SessionRotated,
    SessionUnreadable,
    session_created,
    session_ended,
    session_merged,
    session_refused,
    session_rotated,
    session_unreadable,
)
from .storage.administration import SessionInfo

__all__ = [
    "FlaskSQLAlchemySessionInterface",
    "NullSessionError",
    "NullSessionInterface",
    "ServerSideSession",
    "Session",
    "SessionConfigError",
    "SessionConfigWarning",
    "SessionConflictError",
    "SessionCreated",
    "SessionEnded",
    "SessionError",
    "SessionInfo",
    "SessionLimitError",
    "SessionMerged",
    "SessionRefused",
    "SessionRotated",
    "SessionStoreUnavailableError",
    "SessionTableError",
    "SessionTooLargeError",
    "SessionUnreadable",
    "SessionValueError",
    "UnreadableSessionError",
    "session",
    "session_created",
    "session_ended",
    "session_merged",
    "session_refused",
    "session_rotated",
    "session_unreadable",
]
