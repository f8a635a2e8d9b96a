"""Which addresses are visited: not those of this machine, whatever name, number or trick."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gather.hostile_server import FakeClock, raw_server, sends

from hornbook.errors import HornbookError
from hornbook.gather.addresses import is_public
from hornbook.gather.client import FetchError, PoliteClient, Politeness

OK = sends("HTTP/1.1 200 OK\nContent-Length: 2", b"ok")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def client() -> Iterator[PoliteClient]:
    with PoliteClient(Politeness(attempts=1), clock=FakeClock()) as client:
        yield client


def answers(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[list[str]]]) -> list[str]:
    """Name resolution that answers each question with the next list of addresses."""
    asked = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: Any, **options: Any) -> Any:
        if host not in names:
            return real(host, port, *arguments, **options)
        asked.append(host)
        addresses = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, port))
            for each in addresses
        ]

    monkeypatch.setattr("hornbook.gather.addresses.socket.getaddrinfo", getaddrinfo)
    return asked


PRIVATE = """127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0
224.0.0.1 255.255.255.255 ::1 :: fe80::1 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2002:a9fe:a9fe::1
2001:0:4136:e378:8000:63bf:80ff:fffe"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_counts(ip: ipaddress.IPv4Address) -> None:
    plain = is_public(str(ip))
    assert is_public(f"64:ff9b::{int(ip) >> 16:x}:{int(ip) & 0xFFFF:x}") == plain
    assert not is_public(f"::ffff:{ip}") or plain
    assert not is_public(f"2002:{int(ip) >> 16:x}:{int(ip) & 0xFFFF:x}::1") or plain


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:7f00:1]"]
)
def test_this_machine_by_any_name(client: PoliteClient, host: str) -> None:
    with raw_server({"/": OK}) as url:
        port = url.rpartition(":")[2]
        with pytest.raises(FetchError, match=r"of this machine or of a local network; --allow-pr"):
            client.get(f"http://{host}:{port}/")


def test_a_redirect_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host is allowed here by pretending that loopback is public."""
    monkeypatch.setattr(
        "hornbook.gather.addresses.is_public", lambda address: address == "127.0.0.1"
    )
    redirect = sends("HTTP/1.1 302 X\nLocation: http://169.254.169.254/latest/meta-data/")
    with (
        raw_server({"/": redirect}) as url,
        PoliteClient(Politeness(attempts=1), clock=FakeClock()) as client,
        pytest.raises(FetchError, match=r"169\.254\.169\.254 is an address"),
    ):
        client.get(url + "/")


def test_one_bad_address_is_enough(monkeypatch: pytest.MonkeyPatch, client: PoliteClient) -> None:
    answers(monkeypatch, {"example.test": [["93.184.216.34", "10.0.0.1"]]})
    with pytest.raises(FetchError, match=r"example\.test \(10\.0\.0\.1\) is an address"):
        client.get("http://example.test/")


def test_names_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the connection goes to the address that was checked, not to a second answer;
    an address that does not answer gives way to the next one."""
    with raw_server({"/": OK}) as url:
        port = url.rpartition(":")[2]
        asked = answers(monkeypatch, {"example.test": [["127.0.0.2", "127.0.0.1"], ["10.0.0.1"]]})
        with PoliteClient(Politeness(attempts=1, allow_private=True), clock=FakeClock()) as client:
            page = client.get(f"http://example.test:{port}/")
    assert page.content == b"ok" and page.url == f"http://example.test:{port}/"
    assert asked == ["example.test"]


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch, client: PoliteClient) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("hornbook.gather.addresses.socket.getaddrinfo", unknown)
    with pytest.raises(FetchError, match=r"the name nowhere\.test is not found") as met:
        client.get("http://nowhere.test/")
    assert met.value.retryable


def test_behind_a_proxy_literal_addresses_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def proxy(connection: socket.socket, request: str) -> None:
        seen.append(request.partition("\r\n")[0])
        OK(connection, request)

    with raw_server({"http://example.test/": proxy}) as url:
        monkeypatch.setenv("http_proxy", url)
        with PoliteClient(Politeness(attempts=1), clock=FakeClock()) as client:
            assert client.get("http://example.test/").content == b"ok"
            for host in ("10.0.0.1", "127.1", "2130706433", "a.localhost", "localhost.", "[::1]"):
                with pytest.raises(FetchError, match="of a local network"):
                    client.get(f"http://{host}/")
    assert seen == ["GET http://example.test/ HTTP/1.1"]


@pytest.mark.parametrize("proxy", ["socks5://me:sesame@127.0.0.1:1", "ftp://127.0.0.1:1"])
def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with (
        PoliteClient(Politeness(), clock=FakeClock()) as client,
        pytest.raises(HornbookError, match="the proxy cannot be used") as met,
    ):
        client.get("http://example.test/")
    assert "sesame" not in str(met.value)


def test_connections_are_not_kept_for_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a thousand hosts must not use up the files that a process may have open."""
    monkeypatch.setattr("hornbook.gather.addresses.MOST_POOLS", 3)
    names = [f"host{number}.test" for number in range(12)]
    answers(monkeypatch, {name: [["127.0.0.1"]] for name in names})
    manners = Politeness(attempts=1, allow_private=True)
    with raw_server({"/": OK}) as url, PoliteClient(manners, clock=FakeClock()) as client:
        for name in names:
            assert client.get(f"http://{name}:{url.rpartition(':')[2]}/").content == b"ok"
        assert [host for host, _ in client._client._transport._pools] == names[-3:]  # type: ignore[attr-defined]


def test_certificates_are_checked_for_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Connecting to an address must not weaken TLS, nor may two names of one address share a
    connection."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += f" -keyout {key} -out {certificate} -subj /CN=x"
    command += " -addext subjectAltName=DNS:right.test"
    made = subprocess.run(command.split(), capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answers(monkeypatch, {"right.test": [["127.0.0.1"]], "wrong.test": [["127.0.0.1"]]})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with (
        raw_server({"/": OK}, context) as url,
        PoliteClient(Politeness(attempts=1, allow_private=True), clock=FakeClock()) as client,
    ):
        port = url.rpartition(":")[2]
        assert client.get(f"https://right.test:{port}/").content == b"ok"
        with pytest.raises(FetchError, match=r"(?i)certificate"):
            client.get(f"https://wrong.test:{port}/")
