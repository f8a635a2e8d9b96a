"""Names that the wikitext rules look up: units, languages, symbols, prefixes of links.

Data only. Units are written as the English Wikipedia's `convert` shows them.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNIT_NAMES = """
m m metre metres | km km kilometre kilometres | cm cm centimetre centimetres | mm mm millimetre millimetres
um μm micrometre micrometres | nm nm nanometre nanometres | μm μm micrometre micrometres
mi mi mile miles | ft ft foot feet | in in inch inches | yd yd yard yards | nmi nmi nautical_mile nautical_miles
fathom fathom fathom fathoms | furlong furlong furlong furlongs | ly ly light-year light-years | AU AU astronomical_unit astronomical_units
km2 km² square_kilometre square_kilometres | m2 m² square_metre square_metres | cm2 cm² square_centimetre square_centimetres
sqmi sq_mi square_mile square_miles | mi2 sq_mi square_mile square_miles | sqft sq_ft square_foot square_feet | ft2 sq_ft square_foot square_feet
acre acre acre acres | acres acre acre acres | ha ha hectare hectares | sqkm km² square_kilometre square_kilometres | sqin sq_in square_inch square_inches
m3 m³ cubic_metre cubic_metres | km3 km³ cubic_kilometre cubic_kilometres | cumi cu_mi cubic_mile cubic_miles | cuft cu_ft cubic_foot cubic_feet
cm3 cm³ cubic_centimetre cubic_centimetres | l l litre litres | L L litre litres | ml ml millilitre millilitres | cuin cu_in cubic_inch cubic_inches
USgal US_gal US_gallon US_gallons | impgal imp_gal imperial_gallon imperial_gallons | oilbbl bbl barrel barrels | acre.ft acre⋅ft acre-foot acre-feet
g g gram grams | kg kg kilogram kilograms | mg mg milligram milligrams | t t tonne tonnes | MT t metric_ton metric_tons | lb lb pound pounds
lbs lb pound pounds | oz oz ounce ounces | ST short_ton short_ton short_tons | LT long_ton long_ton long_tons | stone st stone stone | kt kt kilotonne kilotonnes
km/h km/h kilometre_per_hour kilometres_per_hour | mph mph mile_per_hour miles_per_hour | kn kn knot knots | m/s m/s metre_per_second metres_per_second
ft/s ft/s foot_per_second feet_per_second | km/s km/s kilometre_per_second kilometres_per_second | mi/s mi/s mile_per_second miles_per_second
C °C degree_Celsius degrees_Celsius | F °F degree_Fahrenheit degrees_Fahrenheit | K K kelvin kelvins | °C °C degree_Celsius degrees_Celsius | °F °F degree_Fahrenheit degrees_Fahrenheit
W W watt watts | kW kW kilowatt kilowatts | MW MW megawatt megawatts | hp hp horsepower horsepower | bhp bhp brake_horsepower brake_horsepower
J J joule joules | kJ kJ kilojoule kilojoules | kWh kWh kilowatt-hour kilowatt-hours | kcal kcal kilocalorie kilocalories | MeV MeV megaelectronvolt megaelectronvolts
Pa Pa pascal pascals | kPa kPa kilopascal kilopascals | MPa MPa megapascal megapascals | GPa GPa gigapascal gigapascals | bar bar bar bars
psi psi pound_per_square_inch pounds_per_square_inch | atm atm standard_atmosphere standard_atmospheres | hPa hPa hectopascal hectopascals | mbar mbar millibar millibars
N N newton newtons | kN kN kilonewton kilonewtons | lbf lbf pound-force pounds-force | Nm N⋅m newton-metre newton-metres | lbft lb⋅ft pound-foot pound-feet
PD/sqkm /km² inhabitant_per_square_kilometre inhabitants_per_square_kilometre | PD/km2 /km² inhabitant_per_square_kilometre inhabitants_per_square_kilometre
PD/sqmi /sq_mi inhabitant_per_square_mile inhabitants_per_square_mile | kg/m3 kg/m³ kilogram_per_cubic_metre kilograms_per_cubic_metre
g/cm3 g/cm³ gram_per_cubic_centimetre grams_per_cubic_centimetre | g/l g/L gram_per_litre grams_per_litre | m3/s m³/s cubic_metre_per_second cubic_metres_per_second
cuft/s cu_ft/s cubic_foot_per_second cubic_feet_per_second | cc cc cubic_centimetre cubic_centimetres | mpgus mpg‑US mile_per_US_gallon miles_per_US_gallon
"""  # noqa: E501

UNITS: dict[str, tuple[str, str, str]] = {
    code: (symbol.replace("_", " "), one.replace("_", " "), many.replace("_", " "))
    for line in _UNIT_NAMES.strip().splitlines()
    for code, symbol, one, many in (entry.split() for entry in line.split("|"))
}
"""From a unit's code in `convert` to its symbol, its name for one, its name for many."""

_LANGUAGE_NAMES = """
af Afrikaans|am Amharic|ang Old English|ar Arabic|arc Aramaic|az Azerbaijani|be Belarusian|bg Bulgarian|bn Bengali|bo Tibetan|br Breton|
bs Bosnian|ca Catalan|cs Czech|cy Welsh|da Danish|de German|el Greek|en English|eo Esperanto|es Spanish|et Estonian|eu Basque|fa Persian|
fi Finnish|fo Faroese|fr French|fy West Frisian|ga Irish|gd Scottish Gaelic|gl Galician|grc Ancient Greek|gu Gujarati|gv Manx|haw Hawaiian|
he Hebrew|hi Hindi|hr Croatian|hu Hungarian|hy Armenian|id Indonesian|is Icelandic|it Italian|ja Japanese|jv Javanese|ka Georgian|
kk Kazakh|km Khmer|kn Kannada|ko Korean|ku Kurdish|kw Cornish|ky Kyrgyz|la Latin|lb Luxembourgish|lo Lao|lt Lithuanian|lv Latvian|
mi Māori|mk Macedonian|ml Malayalam|mn Mongolian|mr Marathi|ms Malay|mt Maltese|my Burmese|nah Nahuatl|nb Norwegian Bokmål|ne Nepali|
nl Dutch|nn Norwegian Nynorsk|no Norwegian|non Old Norse|oc Occitan|pa Punjabi|pl Polish|ps Pashto|pt Portuguese|qu Quechua|ro Romanian|
ru Russian|sa Sanskrit|sc Sardinian|scn Sicilian|sco Scots|sd Sindhi|sh Serbo-Croatian|si Sinhala|sk Slovak|sl Slovene|so Somali|
sq Albanian|sr Serbian|sv Swedish|sw Swahili|syc Classical Syriac|syr Syriac|ta Tamil|te Telugu|tg Tajik|th Thai|tk Turkmen|tl Tagalog|
tr Turkish|tt Tatar|ug Uyghur|uk Ukrainian|ur Urdu|uz Uzbek|vi Vietnamese|yi Yiddish|yo Yoruba|yue Cantonese|zh Chinese|zu Zulu
"""  # noqa: E501

LANGUAGES: dict[str, str] = {
    code: name
    for entry in _LANGUAGE_NAMES.replace("\n", "").split("|")
    for code, name in (entry.split(" ", 1),)
}
"""From a language's code to its English name."""

LANGUAGE_PREFIXES = frozenset(LANGUAGES) | _words(
    """
    als an arz as ast av ba bar bat-smg bcl be-x-old bh bpy ce ceb ckb crh csb cv diq dsb dv
    ext frr fur gan gn hak hif hsb ht ia ie ig ilo io kab kbp kl kv krc lad lez li lij lmo ln
    ltg mai map-bms mg mhr min mrj mwl mzn nap nds nds-nl new nov nv or os pag pam pap pcd pfl
    pms pnb pnt rm rmy roa-rup roa-tara rue rw sah simple stq su szl ti to vec vep vls vo wa
    war wo wuu xh xmf za zea zh-classical zh-min-nan zh-yue sat
    """
)
"""Prefixes of links to the same page in another language, which stand beside a page, not in it."""

HIDDEN_NAMESPACES = _words(
    """
    file image category media datei bild kategorie fichier catégorie archivo imagen categoría
    immagine categoria bestand afbeelding categorie ficheiro arquivo imagem plik grafika
    kategoria файл изображение категория ファイル 画像 カテゴリ 文件 图像 分类 fil kategori
    kategorija soubor dosya kép kategória αρχείο κατηγορία קובץ קטגוריה ملف تصنيف
    """
)
"""Prefixes of links to pictures and categories, which are no words of the text."""

OPAQUE_TAGS = _words(
    """
    ref nowiki pre source syntaxhighlight math chem ce gallery references timeline score
    imagemap graph mapframe maplink templatestyles inputbox hiero indicator categorytree
    includeonly templatedata section
    """
)
"""Tags whose content is no wikitext, or none of the text: MediaWiki takes it up to the first
closing tag, whatever it holds."""

INLINE_TAGS = _words(
    """
    abbr b bdi bdo big cite code data del dfn em font i ins kbd mark noinclude nowiki
    onlyinclude q rb rp rt rtc ruby s samp small span strike strong sub sup time tt u var wbr
    ref
    """
)
BLOCK_TAGS = _words(
    """
    blockquote br caption center dd div dl dt h1 h2 h3 h4 h5 h6 hr li ol p poem pre table
    tbody td tfoot th thead tr ul
    """
)
"""HTML that wikitext allows; anything else in angle brackets is text."""

SYMBOLS = {
    "'": "'", "\"": "\"", "' \"": "' \"", "\" '": "\" '", "'\"": "'\"", "'s": "'s", "=": "=",
    "!": "|", "nbsp": " ", "spaces": " ", "space": " ", "thinsp": " ", "thin space": " ",
    "hair space": " ", "zwsp": "", "zwj": "", "ndash": "–", "–": "–", "mdash": "—", "—": "—",
    "emdash": "—", "snd": " – ", "snds": " – ", "spnd": " – ", "spaced ndash": " – ",
    "spaced en dash": " – ", "mdashb": "—", "spaced mdash": " — ", "·": " · ", "•": " • ",
    "dot": " · ", "middot": "·", "bull": " • ", "sep": " · ", "pi": "π", "times": "×", "okina": "ʻ",
    "hamza": "ʼ", "ayin": "ʽ", "!!": "||", "(": "{", ")": "}", "((": "{", "))": "}", "*": "*",
    "asterisk": "*", "dagger": "†", "double-dagger": "‡", "increase": "▲", "decrease": "▼",
    "yes": "Yes", "no": "No", "tick": "✓", "cross": "✗", "shy": "", "break": "\n", "br": "\n",
    "crlf": "\n", "clrl": "", "-": "", "spaced": " ", "pound": "£", "ya": "Yes", "na": "N/A",
    "n/a": "N/A", "dunno": "?", "ellipsis": "…", "...": "…", "sharp": "♯", "flat": "♭",
    "natural": "♮", "hbar": "ħ", "minus": "−", "infin": "∞", "prime": "′", "en dash": "–",
    "em dash": "—", "%": "%", "currency": "¤",
}  # fmt: skip
"""From a template that shows a sign to the sign. `{{!}}` gives a bar that may make a table."""
