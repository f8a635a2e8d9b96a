"""The first part of reading wikitext, by mwparserfromhell: the reference for the fast reader.

In: wikitext. Out: the same with templates, links, comments and opaque tags replaced by their words.
What `wikitext_lines` handles (headings, lists, quotes, plain tags) is handed on as it was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError
from hornbook.gather.wikitext import tag_text
from hornbook.gather.wikitext_names import OPAQUE_TAGS

if TYPE_CHECKING:
    from hornbook.gather.wikitext import Page


def require_mwparserfromhell() -> Any:
    """The library. Raises `HornbookError` where it is missing."""
    try:
        import mwparserfromhell
    except ImportError as error:
        raise HornbookError(
            "wikitext needs mwparserfromhell", hint="`pip install 'hornbook[gather]'`"
        ) from error
    return mwparserfromhell


def structure_by_nodes(wikitext: str, page: Page) -> str:
    """`wikitext` without what nests."""
    parse = require_mwparserfromhell().parse
    return _Walker(page).text(parse(wikitext, skip_style_tags=True))


class _Walker:
    """Turns a tree of nodes into text, one method a kind of node."""

    def __init__(self, page: Page):
        self._page = page

    def text(self, code: Any) -> str:
        return "".join([self._node(node) for node in code.nodes]) if code is not None else ""

    def _node(self, node: Any) -> str:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        return str(node) if method is None else method(node)

    def _comment(self, _: Any) -> str:
        return ""

    def _heading(self, node: Any) -> str:
        return f"{'=' * node.level}{self.text(node.title)}{'=' * node.level}"

    def _wikilink(self, node: Any) -> str:
        return self._page.link(
            self.text(node.title), None if node.text is None else self.text(node.text)
        )

    def _externallink(self, node: Any) -> str:
        if not node.brackets:
            return self.text(node.url)
        label = "" if node.title is None else f" {self.text(node.title)}"
        return f"[{self.text(node.url)}{label}]"

    def _argument(self, node: Any) -> str:
        return self.text(node.default)

    def _template(self, node: Any) -> str:
        named = {
            self.text(parameter.name).strip(): self.text(parameter.value).strip()
            for parameter in node.params
            if parameter.showkey
        }
        positional = [self.text(each.value) for each in node.params if not each.showkey]
        return self._page.template(self.text(node.name).strip(), positional, named)

    def _tag(self, node: Any) -> str:
        name = str(node.tag).strip().lower()
        if name in OPAQUE_TAGS:
            return "" if node.self_closing else tag_text(name, str(node.contents))
        if node.wiki_markup == "{|":
            self.text(node.contents)  # for what is lost in it
            return str(node)  # whole: tables are found by their lines
        if node.wiki_markup is not None:
            return f"{node.wiki_markup}{self.text(node.contents)}"
        attributes = "".join(str(attribute) for attribute in node.attributes)
        if node.self_closing:
            return f"<{name}{attributes}/>"
        return f"<{name}{attributes}>{self.text(node.contents)}</{name}>"
