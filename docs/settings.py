"""The page "Settings": the directives that make it from the declarations.

``.. settings:: cookie`` has an entry for each setting of that group, in the order of
``flask_sessionsql/config.py``, and ``.. settings-summary::`` a table of all of them.
``:setting:`SESSION_MAX_BYTES``` links to an entry from any page, and other projects
find it in ``objects.inv``.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from docutils.statemachine import StringList  # type: ignore[import-untyped]
from sphinx.addnodes import desc_signature
from sphinx.application import Sphinx
from sphinx.domains.std import GenericObject
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from flask_sessionsql import config
from flask_sessionsql.config import SETTINGS, OtherSettings, SessionConfig, Setting

#: Where each setting is declared: the class, the attribute and the attribute's type.
DECLARED = {
    field.metadata["setting"].key: (each.__name__, field.name, str(field.type))
    for each in (SessionConfig, OtherSettings)
    for field in fields(each)
}
#: What the reference says of an attribute: which setting it is.
SETTING_OF = {
    f"{config.__name__}.{owner}.{name}": key
    for key, (owner, name, _) in DECLARED.items()
}


def entry(setting: Setting, text: list[str]) -> list[str]:
    """The entry of a setting, in reStructuredText: the first paragraph, what can be
    said in a word each, and the rest.

    :param text: the text under the declaration.
    """
    first = text.index("") if "" in text else len(text)
    lines = [*text[:first], "", *facts(setting), "", *text[first:]]
    return [f".. setting:: {setting.key}", "", *(f"   {line}" for line in lines), ""]


def facts(setting: Setting) -> list[str]:
    """Type, unit and default of a setting, as a list of fields."""
    default = None if setting.unset else setting.default
    meaning = f": {setting.meaning}" if setting.meaning else ""
    lines = [f":Type: {setting.takes or kept(setting)}"]
    if setting.unit:
        lines.append(f":Unit: {setting.unit}")
    lines.append(f":Default: ``{default!r}``{meaning}")
    if setting.owner != "Flask-SessionSql":
        lines.append(f":Belongs to: {setting.owner}")
    return lines


def kept(setting: Setting) -> str:
    """What can be given where the type of the attribute says it. A time can be given as
    an object, too.
    """
    *_, annotation = DECLARED[setting.key]
    types = [f"``{each}``" for each in annotation.split(" | ")]
    if setting.unset and "``None``" not in types:  # which stands for the default
        types.append("``None``")
    if setting.unit == "seconds":
        types.insert(1, ":class:`~datetime.timedelta`")
    return " or ".join(types)


class Settings(SphinxDirective):
    """``.. settings:: GROUP`` has the entries of a group."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Read the declarations."""
        [group] = self.arguments
        chosen = [each for each in SETTINGS.values() if each.group == group]
        if not chosen:
            raise self.error(f"No setting is in the group {group!r}.")
        self.env.note_dependency(str(config.__file__))
        texts = ModuleAnalyzer.for_module(config.__name__).find_attr_docs()
        lines = [
            line
            for each in chosen
            for line in entry(each, texts[DECLARED[each.key][:2]])
        ]
        return self.parse_text_to_nodes(StringList(lines, source=str(config.__file__)))


class Summary(SphinxDirective):
    """``.. settings-summary::`` is a table of all settings, in a row each."""

    def run(self) -> list[Any]:
        """Read the declarations."""
        self.env.note_dependency(str(config.__file__))
        texts = ModuleAnalyzer.for_module(config.__name__).find_attr_docs()
        lines = [".. list-table::", "   :header-rows: 1", "   :class: settings", ""]
        lines += row("Setting", "Default", ["What it does"])
        for each in SETTINGS.values():
            text = texts[DECLARED[each.key][:2]]
            default = f"``{None if each.unset else each.default!r}``"
            lines += row(f":setting:`{each.key}`", default, text[: text.index("")])
        return self.parse_text_to_nodes(StringList(lines, source=str(config.__file__)))


def row(setting: str, default: str, text: list[str]) -> list[str]:
    """A row of a list-table."""
    first, *rest = text
    return [
        f"   * - {setting}",
        f"     - {default}",
        f"     - {first}",
        *(f"       {line}" for line in rest),
    ]


class SettingObject(GenericObject):
    """``.. setting:: KEY`` is an entry, which the contents of the page show."""

    indextemplate = "pair: %s; setting"

    def _object_hierarchy_parts(self, sig_node: desc_signature) -> tuple[str, ...]:
        return (sig_node.astext(),)

    def _toc_entry_name(self, sig_node: desc_signature) -> str:
        return str(sig_node.astext())


def refer_to_settings(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """In the reference, an attribute of ``SessionConfig`` names its setting, whose text
    is on the page of the settings.
    """
    if name in SETTING_OF:
        lines[:] = [f":setting:`{SETTING_OF[name]}`"]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what this module has."""
    app.add_object_type("setting", "setting", ref_nodeclass=nodes.literal)
    app.add_directive_to_domain("std", "setting", SettingObject, override=True)
    app.add_directive("settings", Settings)
    app.add_directive("settings-summary", Summary)
    app.add_css_file("settings.css")
    app.connect("autodoc-process-docstring", refer_to_settings)
    return {"parallel_read_safe": True}
