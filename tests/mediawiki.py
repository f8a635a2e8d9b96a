"""A real MediaWiki on loopback: Debian's `mediawiki` on SQLite, with the XML sample imported.

A test file takes it with `from tests.mediawiki import mediawiki`. Installing and importing takes
about a minute, once a machine; each session works on a copy. What is not there skips the tests:
`apt-get install mediawiki php-cli php-sqlite3 php-mbstring php-xml php-intl`.

The sample's pages call templates that it does not hold. Those in `TEMPLATES` are written here,
after their documentation; others stay red links.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import httpx2
import pytest

PROGRAM = Path("/usr/share/mediawiki")
SAMPLE = "enwiki-pages-articles-sample.xml.bz2"

_UNITS = (
    "{{#switch:{{{2}}}|mi=miles|km=kilometres|ft=feet|m=metres|in=inches|cm=centimetres"
    "|sqmi=square miles"
    "|km2=square kilometres|lb=pounds|kg=kilograms|mph=miles per hour|km/h=kilometres per hour"
    "|nmi=nautical miles|acre=acres|ha=hectares|F=degrees Fahrenheit|C=degrees Celsius|{{{2}}}}}"
)
_OTHER_UNIT = (
    "{{#switch:{{{2}}}|mi={{#expr:{{{1}}}*1.609344 round 0}} km"
    "|km={{#expr:{{{1}}}/1.609344 round 0}} mi"
    "|ft={{#expr:{{{1}}}*0.3048 round 1}} m|m={{#expr:{{{1}}}/0.3048 round 0}} ft"
    "|in={{#expr:{{{1}}}*25.4 round 0}} mm|sqmi={{#expr:{{{1}}}*2.589988 round 0}} km2"
    "|km2={{#expr:{{{1}}}/2.589988 round 0}} sq mi|lb={{#expr:{{{1}}}*0.45359 round 0}} kg"
    "|kg={{#expr:{{{1}}}/0.45359 round 0}} lb|}}"
)
TEMPLATES = {
    "Convert": f"{{{{{{1}}}}}} {_UNITS} ({_OTHER_UNIT})",
    "Lang": "''{{{2}}}''",
    "Transl": "''{{{3|{{{2}}}}}}''",
    "Small": "<small>{{{1}}}</small>",
    "Nowrap": '<span class="nowrap">{{{1}}}</span>',
    "IPA": '<span class="IPA">{{{1}}}</span>',
    "As of": "{{#if:{{{alt|}}}|{{{alt}}}|{{#if:{{{lc|}}}|as|As}} of {{#if:{{{2|}}}|"
    "{{#time:F|2000-{{{2}}}-1}} }}{{{1}}}}}",
    "Circa": "c. {{{1|}}}",
    "C.": "c. {{{1|}}}",
    "Frac": "{{#if:{{{3|}}}|{{{1}}}+{{{2}}}⁄{{{3}}}|{{{1}}}⁄{{{2}}}}}",
    "Quote": "<blockquote>{{{1|{{{text|}}}}}}\n\n{{{2|{{{author|}}}}}} {{{3|}}}</blockquote>",
    "Hlist": "<ul><li>{{{1|}}}</li><li>{{{2|}}}</li><li>{{{3|}}}</li><li>{{{4|}}}</li></ul>",
    "Angbr": "⟨{{{1}}}⟩",
    "Nihongo": "{{{1}}} ({{{2|}}}, {{{3|}}})",
    "Respell": "{{{1}}}-{{{2|}}}",
    "Flag": "{{{1}}}",
    "Nts": "{{{1}}}",
    "Smaller": "<small>{{{1}}}</small>",
    "Vanchor": "{{{1}}}",
    "Chem": "{{{1|}}}{{{2|}}}{{{3|}}}{{{4|}}}{{{5|}}}",
    "·": " · ",
    "'s": "'s",
    "Nbsp": "&nbsp;",
    "Val": "{{{1}}}{{#if:{{{e|}}}|×10{{{e}}}}} {{{u|{{{ul|}}}}}}",
    "Birth date": "{{#time:F j, Y|{{{1}}}-{{{2}}}-{{{3}}}}}",
    "Convert/2": "{{{1}}} {{{3}}}",
    "Sfn": "",
    "Citation needed": "",
    "Reflist": "<references />",
    "Main": "",
    "See also": "",
    "Further": "",
}
"""Templates by name, in wikitext: the sample's most common ones that carry words, and a few that
show none (references, notes to the reader)."""

_SETTINGS = """
$wgSQLiteDataDir = getenv( 'WIKI_DATA' );
$wgDBservers = [ [ 'type' => 'sqlite', 'dbname' => 'wiki', 'dbDirectory' => $wgSQLiteDataDir,
    'host' => '', 'user' => '', 'password' => '', 'load' => 1, 'flags' => DBO_DEFAULT ] ];
$wgLocalisationCacheConf['storeDirectory'] = $wgCacheDirectory = $wgSQLiteDataDir;
$wgLocalisationCacheConf['store'] = 'files';
$wgMainCacheType = $wgParserCacheType = $wgMessageCacheType = CACHE_NONE;
$wgObjectCaches[CACHE_DB] = [ 'class' => 'EmptyBagOStuff' ];
$wgJobTypeConf['default'] = [ 'class' => 'JobQueueDB', 'claimTTL' => 3600 ];
$wgServer = 'http://' . ( $_SERVER['HTTP_HOST'] ?? '127.0.0.1' );
$wgJobRunRate = 0;
$wgRightsUrl = 'https://creativecommons.org/licenses/by-sa/4.0/';
$wgRightsText = 'Creative Commons Attribution-ShareAlike 4.0';
wfLoadExtensions( [ 'ParserFunctions', 'Cite', 'Poem', 'Math' ] );
$wgMathDisableTexFilter = 'always';
$wgMathValidModes = [ 'source' ];
$wgDefaultUserOptions['math'] = 'source';
"""


@dataclass(frozen=True)
class MediaWiki:
    """A running wiki: its address, and that of its Action API."""

    url: str

    @property
    def api_url(self) -> str:
        return f"{self.url}/api.php"


@pytest.fixture(scope="session")
def mediawiki(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaWiki]:
    """A wiki with the sample's 206 pages and `TEMPLATES`, for this session alone."""
    if not PROGRAM.is_dir() or shutil.which("php") is None:
        pytest.skip("Debian's mediawiki and php-cli are not installed (see tests/mediawiki.py)")
    folder = tmp_path_factory.mktemp("mediawiki") / "wiki"
    shutil.copytree(built_wiki(shared_data / SAMPLE), folder)
    with serve(folder) as wiki:
        yield wiki


def built_wiki(sample: Path, templates: Mapping[str, str] = TEMPLATES) -> Path:
    """A folder with the installed wiki; made when this machine has none of the same content."""
    content = repr((templates, _SETTINGS)).encode() + sample.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"hornbook-mediawiki-{digest}"
    if not folder.is_dir():
        making = Path(tempfile.mkdtemp(prefix="hornbook-mediawiki-"))
        _install(making, sample, templates)
        with contextlib.suppress(OSError):  # another session was faster
            making.rename(folder)
    return folder


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[MediaWiki]:
    """Run the wiki of a folder until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = _environment(folder) | {"PHP_CLI_SERVER_WORKERS": "3"}
    command = ["php", "-d", "memory_limit=512M", "-S", f"127.0.0.1:{port}", "-t", str(PROGRAM)]
    with open(folder / "server.log", "wb") as log:
        # A group of its own, so that its workers end with it.
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wiki = MediaWiki(f"http://127.0.0.1:{port}")
            _wait_for(wiki)
            yield wiki
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            server.wait()


def _wait_for(wiki: MediaWiki) -> None:
    for _ in range(300):
        with contextlib.suppress(httpx2.TransportError):
            query = {"action": "query", "meta": "siteinfo", "format": "json"}
            if httpx2.get(wiki.api_url, params=query, timeout=60).status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError("the wiki does not answer")


def _install(folder: Path, sample: Path, templates: Mapping[str, str]) -> None:
    """Install a wiki in an empty folder and import the sample and the templates."""
    _maintain(
        folder, "install", "--dbtype=sqlite", f"--dbpath={folder}", "--dbname=wiki",
        f"--confpath={folder}", "--pass=a-Password-for-tests-1", "--server=http://127.0.0.1",
        "--scriptpath=", "--lang=en", "Sample", "Admin",
    )  # fmt: skip
    with open(folder / "LocalSettings.php", "a") as settings:
        settings.write(_SETTINGS)
    _maintain(folder, "update", "--quick")
    (folder / "sample.xml").write_bytes(bz2.decompress(sample.read_bytes()))
    (folder / "templates.xml").write_text(_templates_xml(templates), encoding="utf-8")
    for name in ("templates.xml", "sample.xml"):
        _maintain(folder, "importDump", "--no-updates", str(folder / name))
        (folder / name).unlink()
    for script in ("refreshLinks", "rebuildtextindex"):
        _maintain(folder, script)
    _maintain(folder, "initSiteStats", "--update")


def _templates_xml(templates: Mapping[str, str]) -> str:
    pages = "".join(
        f"<page><title>Template:{escape(name)}</title><ns>10</ns><revision>"
        "<timestamp>2026-01-01T00:00:00Z</timestamp><contributor><username>A</username></contributor>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>\n'
        for name, text in templates.items()
    )
    return (
        '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="en">'
        f"{pages}</mediawiki>"
    )


def _environment(folder: Path) -> dict[str, str]:
    settings = folder / "LocalSettings.php"
    given = {"MW_CONFIG_FILE": str(settings)} if settings.exists() else {}
    return os.environ | given | {"WIKI_DATA": str(folder)}


def _maintain(folder: Path, script: str, *arguments: str) -> None:
    command = ["php", str(PROGRAM / "maintenance" / f"{script}.php"), *arguments]
    done = subprocess.run(command, env=_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, f"{script}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
