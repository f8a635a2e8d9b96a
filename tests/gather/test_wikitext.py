"""Wikitext to text: by examples, and the fast reader against mwparserfromhell on real pages."""

from __future__ import annotations

import bz2
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hornbook.gather.wikitext import Unsure, fast_text, to_text

EXAMPLES = {
    "'''Bold''' and ''italic'' and '''''both'''''.": "Bold and italic and both.",
    "L'''amour'' toujours": "L'amour toujours",
    "Rock '''n''' roll''''s": "Rock n roll's",
    "A [[link]], a [[page|label]], [[bus]]es.": "A link, a label, buses.",
    "[[File:A.jpg|thumb|A [[nested]] caption]]Text[[Category:X]]": "Text",
    "[[:Category:X]] and [[:File:A.jpg|the file]]": "Category:X and the file",
    "Text [[de:Seite]] [[zh-min-nan:X]]": "Text",
    "See [http://example.org the site], [http://example.org].": "See the site, .",
    "[[http://example.org a label]]": "[a label]",
    "Fact.<ref name=x>{{cite|a}}</ref> More<ref name=x /> text": "Fact. More text",
    "A<!-- hidden [[ -->B": "AB",
    "== Heading ==\nText": "Heading\n\nText",
    "=== {{nowrap|A B}} ===\n* one\n# two\n: three\n; four": "A B\n\n- one\n- two\nthree\nfour",
    "a\n{| class=x\n| cell {{!}} [[x|y]]\n{|\n| inner\n|}\n|}\nb": "a\n\nb",
    ":{|\n| x\n|} rest": "rest",
    "a <table><tr><td>b<table></table></td></tr></table> c": "a\nc",
    "{{Infobox\n| name = {{lang|fr|Nom}}\n| x = [[a|b]]\n}}\nText": "Text",
    "{{convert|5|mi|km}}; {{convert|1|kg}}; {{cvt|3|m}}": "5 miles; 1 kilogram; 3 m",
    "{{convert|22|e6acre|km2}}": "22 million acres",
    "a {{convert|3|by|4|ft|m|adj=on}} rug": "a 3 by 4-foot rug",
    "{{convert|5|-|10|acre}}": "5–10 acres",
    "{{lang|de|Wort}} ({{lang-la|verbum}}; {{transl|ru|slovo}})": "Wort (Latin: verbum; slovo)",
    "{{birth date|1815|12|10|df=y}}, {{Death_date|1852|11|27}}": (
        "10 December 1815, November 27, 1852"
    ),
    f"{{{{birth date|1990|{'9' * 5000}|1}}}}": f"{'9' * 5000} 1990",
    "{{birth based on age as of date|30|2000|1|2}}x {{uc:a}}{{lc:BÉ}}": "x Abé",
    "{{as of|2011|3|lc=y}}; {{As of|2009}}": "as of March 2011; As of 2009",
    "{{circa|1900}} {{frac|1|2}} {{frac|2|3|4}} {{val|3.1|0.2|e=5|u=km}}": (
        "c. 1900 1⁄2 2+3⁄4 3.1±0.2×105 km"
    ),
    "{{IPA|/a/}} {{IPA-fr|b}} {{IPAc-en|ˈ|æ|l|ə}}{{IPAc-en|ae}}": "/a/ [b] /ˈælə/",
    "{{quote|To be|Hamlet}}": "To be\n— Hamlet",
    "{{hlist|a|b}} {{ubl|c|d}}": "a · b\n- c\n- d",
    "{{small|1=x = y}} {{nowrap|a {{=}} b}} {{nowrap|a=b}}": "x = y a = b",
    "{{unknown|words}}x": "x",
    "H<sub>2</sub>O<br>next <span style='a'>s</span> 1 < 2 <unknown>": (
        "H2O\nnext s 1 < 2 <unknown>"
    ),
    "<nowiki>''[[x]]'' {{y}}</nowiki> &amp; &lt;b&gt; &nbsp;c &copy": (
        "''[[x]]'' {{y}} & <b> c &copy"
    ),
    "<nowiki>&lt;b&gt; &amp;amp;</nowiki> <pre>\n&lt;i&gt;</pre>": "<b> &amp; <i>",
    "<math>x^{2}</math> and <source lang=c>\nif (a[0]) {{b}}\n</source>": (
        "$x^{2}$ and if (a[0]) {{b}}"
    ),
    "Born ({{unknown}}; 1900) and ( ) gone": "Born (1900) and gone",
    "__NOTOC__Text __x__": "Text __x__",
    "{{PAGENAME}} {{formatnum:1234}}": "A Title 1234",
    "\ufdd0private\ufdef": "private",
    "": "",
}

BROKEN = (
    "{{Infobox\n| a = [[b\n}}\ntext [[c]]",
    "text <ref>not closed",
    "text <!-- not closed",
    "{{{1|default}}} text",
    "[[a\nb]] text",
    "{{a[b]|c}} text",
    "{| \n| not closed\ntext",
    "[[" * 60 + "text" + "]]" * 60,
    "{{small|a [[b}} text]]",
)


@pytest.mark.parametrize("parser", ["fast", "mwparserfromhell"])
@pytest.mark.parametrize("wikitext", EXAMPLES)
def test_examples(wikitext: str, parser: str) -> None:
    assert to_text(wikitext, title="A Title", parser=parser).text == EXAMPLES[wikitext]


def test_fast_reader_is_sure_of_the_examples() -> None:
    for wikitext in EXAMPLES:
        fast_text(wikitext)


@pytest.mark.parametrize("wikitext", BROKEN)
def test_broken_brackets_still_give_the_words(wikitext: str) -> None:
    assert "text" in to_text(wikitext).text


def test_losses_are_counted_where_words_were_given() -> None:
    lost = to_text("{{a box|words}}{{A_box|x}}{{navbox x}}{{cite book|y}}\n{|\n|x\n|}\n").lost
    assert lost == {"{{a box}}": 2, "table": 1}


def test_names_of_namespaces_may_be_the_wikis_own() -> None:
    assert to_text("a[[Picture:x|y]]", hidden=frozenset({"picture"})).text == "a"


def sample_pages(shared_data: Path) -> list[tuple[str, str]]:
    pages = []
    with bz2.open(shared_data / "enwiki-pages-articles-sample.xml.bz2") as file:
        for _, element in ElementTree.iterparse(file):
            if element.tag.endswith("}page") and element.find("{*}redirect") is None:
                title = element.findtext("{*}title", "")
                pages.append((title, element.findtext("{*}revision/{*}text", "")))
    return pages


@pytest.mark.shared
def test_fast_reader_equals_mwparserfromhell_on_real_pages(shared_data: Path) -> None:
    """All 106 pages of the sample that are no redirects: same text, same losses, never unsure."""
    pages = sample_pages(shared_data)
    assert len(pages) == 106
    for title, wikitext in pages:
        try:
            fast = fast_text(wikitext, title=title)
        except Unsure as error:
            raise AssertionError(title) from error
        slow = to_text(wikitext, title=title, parser="mwparserfromhell")
        assert fast.text == slow.text, title
        assert fast.lost == slow.lost, title
        assert "[[" not in fast.text, title
