"""Settings of gathering: one dataclass for each source, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class NetworkConfig:
    """How servers are asked."""

    contact: str = ""
    """Your e-mail address or web page: servers are told whom to ask about these requests."""

    requests_per_minute: float = 0.0
    """Requests a minute to one host; 0: what suits the source."""

    concurrency: int = 0
    """Requests to one host at a time; 0: what suits the source."""

    allow_private: bool = False
    """Also fetch from addresses of this machine and of local networks."""

    largest_megabytes: int = 32
    """The largest page or answer that is taken, in MB; files that are downloaded have no limit."""


@dataclass
class FilesConfig:
    """Text files of any kind, and folders and archives of them."""

    inputs: list[str] = field(default_factory=list)
    """Files and folders."""

    text_column: str | None = None
    """Column or key that holds the text in tables; found by itself when there is one candidate."""

    encoding: str = "auto"
    """Encoding of text; `auto`: byte-order mark, else UTF-8, else detected for each file."""

    undecodable: Literal["count", "refuse"] = "count"
    """What becomes of bytes that do not fit the encoding: replaced by U+FFFD and counted, or an
    error that says where."""

    html: Literal["main", "all"] = "main"
    """What is taken of web pages: the main text, or all text."""


@dataclass
class WikipediaConfig:
    """Articles of Wikipedia, or of any MediaWiki, by its Action API."""

    topics: list[str] = field(default_factory=list)
    """Searches, each taking its best hits; default: a built-in list of about 40 topics."""

    topics_file: str | None = None
    """File with one search a line."""

    titles: list[str] = field(default_factory=list)
    """Titles of pages to take, besides those that the searches find."""

    pages: int = 1000
    """The most pages to take."""

    depth: int = 0
    """How many links to follow from the pages found."""

    language: str = "en"
    """Which Wikipedia: en, de, pt ..."""

    api_url: str = ""
    """The api.php of another MediaWiki."""

    per_topic: int = 50
    """The most pages to take of one search."""

    minimum_characters: int = 200
    """Shorter pages are left out."""

    licence: str = ""
    """Licence of the texts; default: as the wiki says."""


@dataclass
class WikidumpConfig:
    """Articles out of a MediaWiki dump (pages-articles.xml, also .bz2)."""

    inputs: list[str] = field(default_factory=list)
    """Dump files."""

    page_seconds: float = 10.0
    """A page whose wikitext takes longer to read is put into quarantine."""

    namespaces: list[int] = field(default_factory=lambda: [0])
    """Namespaces to take; 0 holds the articles."""

    wiki: str = ""
    """Address of the wiki, for the documents' URLs; default: as the dump says."""


@dataclass
class SiteConfig:
    """Articles of a web site, by its search pages and a profile."""

    profile: str = "britannica"
    """Built-in profile."""

    profile_file: str | None = None
    """Profile of your own (YAML)."""

    site: str = ""
    """Address to use instead of the profile's."""

    queries: list[str] = field(default_factory=list)
    """Searches; default: the profile's."""

    pages: int = 500
    """The most articles to take."""

    i_have_permission: bool = False
    """You have the permission of a site whose terms forbid robots."""

    extractor: Literal["resiliparse", "trafilatura", "longest"] = "resiliparse"
    """What finds the main text; `longest` asks both and takes the longer one."""


@dataclass
class YoutubeConfig:
    """Transcripts of the videos of YouTube channels.

    Needs a key of the YouTube Data API in the environment variable YOUTUBE_API_KEY."""

    channels: list[str] = field(default_factory=list)
    """Channel ids; default: a built-in sample list."""

    channels_file: str | None = None
    """File with one channel id a line."""

    languages: list[str] = field(default_factory=lambda: ["en"])
    """Languages of transcripts, the most wanted first."""

    videos: int = 0
    """The most videos to take; 0: all."""

    seconds_between: float = 3.0
    """Seconds to wait between two transcripts."""

    generated: bool = True
    """Take generated transcripts where people wrote none."""

    api_url: str = "https://www.googleapis.com/youtube/v3"
    """Address of the YouTube Data API."""


@dataclass
class HubConfig:
    """Parquet or JSON lines files of a data set of the Hugging Face hub.

    Gated data sets need an access token in the environment variable HF_TOKEN."""

    dataset: str = ""
    """OWNER/NAME of the data set; or a preset: cosmopedia, cosmopedia-v2, fineweb-edu, finewiki,
    redpajama-cc, redpajama-c4."""

    revision: str = "main"
    """Branch, tag or commit; what it means at the first start is kept."""

    pattern: str = ""
    """Which files, as in `data/*.parquet`."""

    text_column: str | None = None
    """Column or key that holds the text; found by itself when there is one candidate."""

    max_tokens: str = ""
    """About how many tokens to take (`10B`, `500M`), at 4.3 bytes a token."""

    endpoint: str = "https://huggingface.co"
    """Address of the hub."""

    downloads: int = 2
    """Files that are downloaded at a time, ahead of reading."""


@dataclass
class UrlConfig:
    """Plain files by address, each with its sha256 where that is known."""

    urls: list[str] = field(default_factory=list)
    """Addresses; `URL sha256=HEX` checks the file."""

    list_file: str | None = None
    """File with one address a line."""

    leave_out_failing: bool = False
    """Leave out files whose servers do not work now, instead of ending with an error after the
    others, to be run again."""

    text_column: str | None = None
    """Column or key that holds the text in tables; found by itself when there is one candidate."""


@dataclass
class SourceConfig:
    """One source of a mix."""

    source: str
    """files, wikipedia, wikidump, britannica, youtube, hub or url."""

    weight: float = 1.0
    """Its share of the bytes, against the other sources' weights."""

    name: str = ""
    """What it is called in messages; default: as `source`."""

    settings: dict[str, Any] = field(default_factory=dict)
    """The settings of the source."""


@dataclass
class GatherConfig:
    """What to gather, how much, and into how large shards."""

    sources: list[SourceConfig] = field(default_factory=list)
    """One source, or several that are mixed by weight."""

    megabytes: float = field(default=0.0, metadata={"horizon": True})
    """How much text to gather, in MB; 0: all there is. Raised, a gathering goes on."""

    shard_megabytes: int = 256
    """Text per Parquet shard, in MB."""

    workers: int = field(default=0, metadata={"horizon": True})
    """Processes that read in parallel where a source can; 0: one for each CPU core."""

    network: NetworkConfig = field(default_factory=NetworkConfig, metadata={"horizon": True})
    """How servers are asked."""


CONFIGS: dict[str, type[Any]] = {
    "files": FilesConfig,
    "wikipedia": WikipediaConfig,
    "wikidump": WikidumpConfig,
    "britannica": SiteConfig,
    "youtube": YoutubeConfig,
    "hub": HubConfig,
    "url": UrlConfig,
}
"""Settings of each source, in the order of the list that `hornbook gather --help` shows."""
