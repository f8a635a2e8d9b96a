"""The table of wiki templates that carry words: what a reader would see in their place.

In: a template's name and its arguments, as text. Out: the words, "" where readers see none, or
None for a template that the table does not know (its words are lost, and counted by its name).

Names and arguments are those of the English Wikipedia; what is written is what its template
documentation pages show, less what would need arithmetic: `convert` gives the quantity as it was
written, never the other unit, since a wrong number is worse than none.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hornbook.gather.wikitext_names import LANGUAGES, SYMBOLS, UNITS


@dataclass(frozen=True)
class Arguments:
    """What a template was called with. A missing argument reads as ""."""

    positional: Sequence[str]
    named: Mapping[str, str]

    def __getitem__(self, key: int | str) -> str:
        """By number from 1 (also where it was written `1=...`), or by name; without its spaces."""
        if isinstance(key, int) and key <= len(self.positional):
            return self.positional[key - 1].strip()
        return self.named.get(str(key), "")

    def all(self) -> list[str]:
        """Every positional argument that is not empty."""
        return [text for value in self.positional if (text := value.strip())]


Rule = Callable[[Arguments], str]


def template_text(name: str, arguments: Arguments, title: str) -> str | None:
    """The words of one template.

    Args:
        name: as it is written between the braces, up to the first bar.
        title: of the page that it stands on, for `{{PAGENAME}}`.
    """
    key = template_key(name)
    if key in SYMBOLS:
        return SYMBOLS[key]
    if rule := RULES.get(key):
        return rule(arguments)
    if key in ("pagename", "fullpagename", "basepagename", "subpagename"):
        return title
    function, colon, _ = key.partition(":")
    if colon and function in _FUNCTIONS:
        return _FUNCTIONS[function](name.partition(":")[2].strip())
    if colon and function.startswith("#"):
        return None
    prefix, _, code = key.partition("-")
    if prefix == "lang" and (language := LANGUAGES.get(code.split("-")[0])):
        return f"{language}: {arguments[1]}"
    if prefix == "ipa" and code:
        return f"[{arguments[1]}]"
    return "" if key in _SHOW_NOTHING or key.startswith(_BEGIN_LIKE) else None


def template_key(name: str) -> str:
    """A template's name as MediaWiki compares it, all in lower case."""
    key = " ".join(name.replace("_", " ").split()).lower()
    return key.removeprefix("template:").removeprefix("subst:")


def _last(arguments: Arguments) -> str:
    return (arguments.all() or [""])[-1]


def _joined(separator: str, before: str = "") -> Rule:
    return lambda arguments: before + separator.join(arguments.all())


def _items(arguments: Arguments) -> str:
    """A list, an item a line."""
    return "".join(f"\n* {item.lstrip('*')}" for item in arguments.all()) + "\n"


def _quote(arguments: Arguments) -> str:
    text = arguments[1] or arguments["text"] or arguments["quote"]
    author = arguments[2] or arguments["author"] or arguments["sign"]
    source = arguments[3] or arguments["source"]
    said_by = ", ".join(part for part in (author, source) if part)
    return f"\n{text}\n" + (f"— {said_by}\n" if said_by else "")


def _circa(arguments: Arguments) -> str:
    return "c. " + " – c. ".join(arguments.all()) if arguments.all() else "c."


def _date(arguments: Arguments) -> str:
    """Year, month, day; `df` puts the day first."""
    day_first = arguments["df"].lower() in ("y", "yes", "on", "1")
    return _written_date(arguments[1], arguments[2], arguments[3], day_first)


def _written_date(year: str, month: str, day: str, day_first: bool) -> str:
    """A date in words; numbers that are none are left as they are."""
    if not month.isdecimal() or len(month) > 2 or not 1 <= int(month) <= 12:
        return " ".join(part for part in (month, year) if part)
    name = datetime.date(2000, int(month), 1).strftime("%B")
    if not day:
        return f"{name} {year}"
    day = day.lstrip("0")
    return f"{day} {name} {year}" if day_first else f"{name} {day}, {year}"


def _as_of(arguments: Arguments) -> str:
    if arguments["alt"]:
        return arguments["alt"]
    word = "since" if arguments["since"] else "as of"
    if not arguments["lc"]:
        word = word.capitalize()
    american = arguments["df"].lower() == "us"
    return f"{word} {_written_date(arguments[1], arguments[2], arguments[3], not american)}"


def _fraction(arguments: Arguments) -> str:
    numbers = arguments.all()
    if len(numbers) < 2:
        return f"1⁄{numbers[0]}" if numbers else "⁄"
    fraction = f"{numbers[-2]}⁄{numbers[-1]}"
    return f"{numbers[0]}+{fraction}" if len(numbers) > 2 else fraction


def _value(arguments: Arguments) -> str:
    """`val`: a number, its uncertainty, its power of ten, its unit."""
    text = arguments[1]
    if uncertainty := arguments[2]:
        text += uncertainty if uncertainty.startswith("(") else f"±{uncertainty}"
    if power := arguments["e"]:
        text += f"×10{power}"
    unit = arguments["u"] or arguments["ul"]
    return f"{text} {unit}" if unit else text


_POWERS = {"3": "thousand", "6": "million", "9": "billion", "12": "trillion"}
_POWER = re.compile(f"e({'|'.join(_POWERS)})(.+)")


def _convert(arguments: Arguments) -> str:
    """The quantity and its unit as they were written: `5 miles`, `3 by 4 metres`."""
    words = arguments.all()
    power = _POWER.fullmatch(words[1]) if len(words) > 1 else None
    if power and power[2] in UNITS:  # 22|e6acre: 22 million acres
        words[:2] = [f"{words[0]} {_POWERS[power[1]]}", power[2]]
    at = next((at for at, word in enumerate(words[1:], 1) if word in UNITS), None)
    if at is None:
        return " ".join(words[:2])
    joiners = {"-": "–", "to": " to ", "and": " and ", "x": " × ", "by": " by ", "or": " or "}
    amount = "".join(joiners.get(word, word) for word in words[:at])
    symbol, one, many = UNITS[words[at]]
    short = arguments["abbr"] in ("on", "in") or (arguments["abbr"] == "" and not one)
    if arguments["adj"] == "on" and not short:
        return f"{amount}-{one}"
    name = symbol if short else (one if amount in ("1", "−1", "-1") else many)
    return f"{amount} {name}"


def _short_convert(arguments: Arguments) -> str:
    return _convert(Arguments(arguments.positional, {"abbr": "on", **arguments.named}))


def _nihongo(arguments: Arguments) -> str:
    inside = ", ".join(part for part in (arguments[2], arguments[3], arguments[4]) if part)
    english = arguments[1] or arguments[3]
    return f"{english} ({inside})" if inside and english else english or inside


def _chinese(arguments: Arguments) -> str:
    names = {
        "c": "Chinese", "s": "simplified Chinese", "t": "traditional Chinese", "p": "pinyin",
        "w": "Wade–Giles", "j": "Jyutping", "l": "lit.",
    }  # fmt: skip
    return "; ".join(f"{name}: {arguments[key]}" for key, name in names.items() if arguments[key])


def _ship(prefix: str) -> Rule:
    return lambda arguments: f"{prefix} {arguments[1]}".strip()


def _heights(arguments: Arguments) -> str:
    units = (("m", "m"), ("ft", "ft"), ("in", "in"), ("cm", "cm"))
    return " ".join(f"{arguments[key]} {unit}" for key, unit in units if arguments[key])


def _english_sounds(arguments: Arguments) -> str:
    """`IPAc-en`: sounds one by one; "" where some are in its ASCII codes, which are not known."""
    words = {"lang", "pron", "pronunciation", "icon", "us", "uk", "audio", "also", "local"}
    sounds = [each for each in arguments.all() if each not in words]
    if not sounds or any(len(each) > 1 and each.isascii() for each in sounds):
        return ""
    return f"/{''.join(sounds)}/".replace("_", " ")


def _table(rule: Rule | str, names: str) -> dict[str, Rule]:
    """The rule for each of `a|b|c`; text is a rule with {} where the first argument stands."""
    if isinstance(rule, str):
        text = rule
        return _table(lambda arguments: text.format(arguments[1]), names)
    return dict.fromkeys(names.split("|"), rule)


_MUSIC = {"sharp": "♯", "#": "♯", "flat": "♭", "b": "♭", "natural": "♮"}

RULES: dict[str, Rule] = {
    **_table(
        "{}",
        "nowrap|nobr|nobold|small|smaller|big|larger|large|em|strong|mono|code|"
        "kbd|samp|var|tt|smallcaps|sc|sc2|allcaps|abbr|tooltip|h:title|unicode|script|polytonic|"
        "ipa|ipa-all|ipalink|ipablink|center|block indent|indent|vanchor|visible anchor|"
        "not a typo|proper name|noitalic|noitalics|math|mvar|keypress|key press|nts|ntsh|"
        "format price|formatnum|flag|flagcountry|flagu|flagathlete|term|glossary term|defn|"
        "gloss|wikt|linktext|sup|sub|bigmath|serif|sans-serif|native name list|plain text|"
        "font color|hover|native phrase|longitem|nastaliq|rtl-para|pull quote|url|dfn|strike|"
        "grc|he|hebrew|arabic|cyrl|gr|bdo|ship|sclass|smu",
    ),
    **_table(
        lambda arguments: arguments[2],
        "lang|wikt-lang|rtl-lang|sort|audio|audio-nohelp|color|fontcolor|native name",
    ),
    **_table(_last, "transl|transliteration|tlit|script/hebrew|script/arabic|resize"),
    **_table(
        lambda arguments: arguments[2] or arguments[1],
        "interlanguage link multi|section link|slink|army|navy|air force",
    ),
    **_table(
        lambda arguments: arguments["lt"] or arguments[1],
        "interlanguage link|ill|ill2|link-interwiki|illm",
    ),
    **_table(_items, "unbulleted list|ubl|ubil|vunblist|bulleted list|ordered list|blist|olist"),
    **_table("\n{}\n", "plainlist|plain list|flatlist|flat list|columns-list|cmn|collapsible list"),
    **_table(_joined(" · "), "hlist|hlist-comma|dot separated entries|flat"),
    **_table(_joined(", "), "comma separated entries|enum|cslist"),
    **_table(_joined(""), "chem|chem2|gaps|simplenuclide|ce"),
    **_table(_joined(" "), "sortname|bibleverse|bibleref|bibleref2|bibleverse-nb|vol.|lbl"),
    **_table(_joined("–"), "ndashed|range"),
    **_table(
        _quote,
        "quote|blockquote|cquote|bquote|poemquote|poem quote|quotation|quote frame|centered quote",
    ),
    **_table(_circa, "circa|c.|ca.|ca|circa2"),
    **_table(_joined("–", "fl. "), "floruit|fl."),
    **_table(_joined("–", "r. "), "reign|r."),
    **_table(
        _date,
        "birth date|birth date and age|birth-date|bda|death date|death date and age|dda|start date|"
        "start date and age|end date|end date and age|dts|date|film date|start-date|end-date|"
        "birth year and age|death year and age",
    ),
    **_table(_as_of, "as of|asof"),
    **_table(_fraction, "frac|fraction|sfrac|fract"),
    **_table(_value, "val"),
    **_table(_convert, "convert|conv|convert/2"),
    **_table(_short_convert, "cvt"),
    **_table(_nihongo, "nihongo|nihongo2|nihongo3|nihongo foot|korean|japanese"),
    **_table(_chinese, "zh|chinese|zh-full|lang-zh"),
    **_table(
        lambda arguments: " ".join(filter(None, (arguments["p"], arguments["b"]))),
        "su|subsup|physics particle",
    ),
    **_table(_heights, "height"),
    **_table(
        lambda arguments: "-".join(arguments.all()).replace("-_-", " "),
        "respell|pronunciation respelling",
    ),
    "music": lambda arguments: _MUSIC.get(arguments[1], ""),
    **_table(_english_sounds, "ipac-en"),
    **{name.lower(): _ship(name) for name in ("HMS", "USS", "SS", "RMS", "HMAS", "HMCS", "USNS")},
    **_table("⟨{}⟩", "angbr|angle bracket|angbr ipa"),
    **_table("×10{}", "e|esp|×10^|10^"),
    **_table("{} [sic]", "sic"),
    **_table("√{}", "sqrt|radic"),
    **_table("ISBN {}", "isbn"),
    **_table("OCLC {}", "oclc"),
    **_table("AD {}", "ad"),
    **_table("lit. '{}'", "literal translation|lit|literally"),
    **_table("US${}", "us$|usd"),
    **_table("A${}", "a$|aud"),
    **_table("£{}", "£|gbp|pound sterling"),
    **_table("€{}", "€|euro|eur"),
    **_table("approx. {}", "approx"),
    **_table("Sura {}", "cite quran"),
}
"""From a template's key to what it shows."""

_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "formatnum": str,
    "nowrap": str,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
    "defaultsort": lambda _: "",
    "displaytitle": lambda _: "",
}
"""From a function that is written `{{name:text}}` to what it shows."""

_SHOW_NOTHING = {
    "main", "for", "hatnote", "rp", "r", "citation needed", "cn", "fact", "when", "which", "who",
    "by whom", "clarify", "dubious", "vague", "dead link", "anchor", "notelist", "notes", "vr",
    "toc", "cleanup", "update", "verify", "pov", "pp", "listen", "dablink", "no more links",
    "nomorelinks", "sisterlinks", "original research", "for2", "cite", "flagdeco",
    "verification needed",
}  # fmt: skip
_BEGIN_LIKE = (
    "cite ", "citation", "infobox", "taxobox", "automatic taxobox", "reflist", "refbegin", "refend",
    "refimprove", "sfn", "harv", "col-", "colbegin", "colend", "div col", "pp-", "use ", "r from",
    "r to", "redirect", "redr", "wikisource", "wikibooks", "wikiquote", "wikispecies", "wikt",
    "commons", "sister", "portal", "other uses", "see also", "main ", "further", "details",
    "distinguish", "about", "expand ", "unreferenced", "needs ", "toc ", "flagicon", "disambig",
    "multiple i", "double image", "wide image", "library resources", "authority control", "clear",
    "navbox", "s-", "dmoz", "official website", "imdb", "gutenberg", "internet archive", "librivox",
    "refn", "efn", "short desc", "engvar", "better source", "failed verification", "page needed",
    "lead ", "featured", "good article", "more footnotes", "coord",
)  # fmt: skip
"""Names, and beginnings of names, of templates that show no prose: notes to readers and editors,
references, boxes, navigation, pictures. They are left out without being counted as a loss."""
