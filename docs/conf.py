"""How Sphinx builds the documentation. Every warning is an error: ``sh tools/nox.sh
-s docs``.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
import warnings
from importlib.metadata import version as _version_of
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.intersphinx import missing_reference
from sphinx.util.tags import Tags

# Between the last releases of two others that run on Python 3.11.
warnings.filterwarnings("ignore", "'sphinx.*is deprecated")

ROOT = Path(__file__).parents[1]
# What belongs to the checkout, and is not installed.
sys.path.insert(0, str(ROOT))

#: Given by Sphinx, which runs this file.
tags: Tags = globals()["tags"]

project = "Flask-SessionSql"
author = "The Flask-SessionSql maintainers"
copyright = author
release = _version_of("Flask-SessionSql")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "docs.first_page",
    "docs.measured",
    "docs.pictures",
    "docs.search",
    "docs.settings",
    "docs.site",
]
exclude_patterns = ["_build"]
nitpicky = True
#: Stands for any type.
nitpick_ignore = [("py:class", "flask_sessionsql.storage.database.T")]

# The reference.

autodoc_member_order = "bysource"
#: An inherited docstring speaks of the class that it was written for.
autodoc_inherit_docstrings = False
typehints_use_signature = True
typehints_use_signature_return = True
typehints_document_rtype = False
always_use_bars_union = True

# Other projects. Their names are looked up in our own lists of those that we use, so
# that the documentation builds anywhere. ``-t remote`` asks the projects themselves.

intersphinx_timeout = 5
intersphinx_mapping = {
    name: (address, None if "remote" in tags else f"inventories/{name}.inv")
    for name, address in {
        "blinker": "https://blinker.readthedocs.io/en/stable/",
        "click": "https://click.palletsprojects.com/en/stable/",
        "flask": "https://flask.palletsprojects.com/en/stable/",
        "flask-sqlalchemy": "https://flask-sqlalchemy.palletsprojects.com/en/stable/",
        "python": "https://docs.python.org/3/",
        "sqlalchemy": "https://docs.sqlalchemy.org/en/20/",
        "werkzeug": "https://werkzeug.palletsprojects.com/en/stable/",
    }.items()
}

#: Type hints name the module where something is written; documentation names the
#: one where it is to be imported from.
PUBLIC_NAMES = {
    "blinker.base.Signal": "blinker.Signal",
    "flask.app.Flask": "flask.Flask",
    "flask.wrappers.Request": "flask.Request",
    "flask.wrappers.Response": "flask.Response",
    "flask_sqlalchemy.extension.SQLAlchemy": "flask_sqlalchemy.SQLAlchemy",
    "sqlalchemy.engine.base.Connection": "sqlalchemy.engine.Connection",
    "sqlalchemy.engine.base.Engine": "sqlalchemy.engine.Engine",
    "sqlalchemy.engine.url.URL": "sqlalchemy.engine.URL",
    "sqlalchemy.engine.interfaces.Dialect": "sqlalchemy.engine.Dialect",
    "sqlalchemy.orm.session.Session": "sqlalchemy.orm.Session",
    "sqlalchemy.pool.base.Pool": "sqlalchemy.pool.Pool",
    "sqlalchemy.pool.base.PoolProxiedConnection": (
        "sqlalchemy.pool.PoolProxiedConnection"
    ),
    "sqlalchemy.sql.dml.Delete": "sqlalchemy.sql.expression.Delete",
    "sqlalchemy.sql.dml.Insert": "sqlalchemy.sql.expression.Insert",
    "sqlalchemy.sql.dml.Update": "sqlalchemy.sql.expression.Update",
    "sqlalchemy.sql.elements.ColumnElement": "sqlalchemy.sql.expression.ColumnElement",
    "sqlalchemy.sql.selectable.Select": "sqlalchemy.sql.expression.Select",
    "sqlalchemy.sql.schema.MetaData": "sqlalchemy.schema.MetaData",
    "sqlalchemy.sql.schema.Table": "sqlalchemy.schema.Table",
}

# What the examples of the pages and docstrings run in.

#: In a block of code, ``__name__`` has to be a module's whose attributes are the
#: block's own names: ``app.config.from_object(__name__)`` reads them.
doctest_global_setup = """
import sys as _sys

class _Module:
    pass

__name__ = "quickstart"
_sys.modules[__name__] = _Module()
_sys.modules[__name__].__dict__ = globals()
"""
#: The connections of an application are closed when the application goes.
doctest_global_cleanup = """
import gc as _gc

_sys.modules.pop(__name__)
for _name in ("app", "browser", "laptop", "phone", "sess", "thief"):
    globals().pop(_name, None)
_gc.collect()
"""

# The addresses, once there are any: see "Addresses" in CONTRIBUTING.rst.

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
URLS: dict[str, str] = PROJECT.get("urls", {})
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL") or URLS.get(
    "Documentation", ""
)
if html_baseurl:
    html_baseurl = html_baseurl.rstrip("/") + "/"
#: Shown under the navigation.
html_context = {
    "project_links": {
        title: URLS[title] for title in ("Source", "Issues") if title in URLS
    }
}

# The pages. They load nothing from anywhere else.

html_theme = "furo"
html_title = project
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css", "narrow.css", "keyboard.css", "print.css"]
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "sidebar/home.html",
        "sidebar/navigation.html",
        "sidebar/links.html",
        "sidebar/scroll-end.html",
    ]
}
html_theme_options: dict[str, Any] = {
    "top_of_page_buttons": [],
    "light_css_variables": {
        "color-brand-primary": "#0f5e7d",
        "color-brand-content": "#0b6285",
        "color-brand-visited": "#0b6285",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fd0ee",
        "color-brand-content": "#7fd0ee",
        "color-brand-visited": "#7fd0ee",
    },
}
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_domain_indices = False
html_search_scorer = str(Path(__file__).with_name("scorer.js"))
# A command is copied without its prompt and without what it prints.
copybutton_prompt_text = r">>> |\.\.\.(?: |$)|\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .go, .gt"
copybutton_copy_empty_lines = False
copybutton_line_continuation_character = "\\"
#: How the elements that can be wider than the page begin in its HTML.
SCROLLING = re.compile(r'<div class="highlight"><pre|<div class="table-wrapper [^"]*"')


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Any
) -> Any:
    """Try a reference that led nowhere again: under its public name, and as whatever
    kind of object the other project says that it is.
    """
    if node.get("refdomain") != "py":
        return None
    again = node.deepcopy()
    again["reftype"] = "obj"
    again["reftarget"] = PUBLIC_NAMES.get(node["reftarget"], node["reftarget"])
    return missing_reference(app, env, again, contnode)


def let_keyboards_scroll(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Make code and tables, which scroll where they are too wide, reachable by
    keyboard (WCAG 2.1.1).
    """
    body = context.get("body")
    if isinstance(body, str):
        context["body"] = SCROLLING.sub(r'\g<0> tabindex="0"', body)


def setup(app: Sphinx) -> None:
    # After intersphinx, whose priority is 500.
    app.connect("missing-reference", resolve_public_name, priority=600)
    app.connect("html-page-context", let_keyboards_scroll)
