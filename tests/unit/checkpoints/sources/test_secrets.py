from __future__ import annotations

import pytest

from raydsinfer.checkpoints.sources.secrets import without_secrets

SIGNED = "https://me:pass@host/model?sig=secret&x=1"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (SIGNED, "https://host/model"),
        (f"FileNotFoundError: {SIGNED}", "FileNotFoundError: https://host/model"),
        (f"503, url='{SIGNED}', try again", "503, url='https://host/model', try again"),
        (f"URL('{SIGNED}'): no", "URL('https://host/model'): no"),
        ("zip://a.bin::https://host/b.zip?token=1", "zip://a.bin::https://host/b.zip"),
        ("zip://a.bin::https://me:pass@host/b.zip", "zip://a.bin::https://host/b.zip"),
        ("'https://h/m','https://me:pass@host/x'", "'https://h/m','https://host/x'"),
        ("exceeded with url: /m/config.json?sig=secret (Caused by)", "exceeded with url: /m/config.json (Caused by)"),
        ("https://token@host/owner/a@b", "https://host/owner/a@b"),
    ],
)
def test_secrets_are_taken_out_of_urls(text: str, left: str) -> None:
    assert without_secrets(text) == left


@pytest.mark.parametrize(
    "url",
    [
        "https://host/m?a='b'&sig=SECRET",
        'https://host/m?a="b"&sig=SECRET',
        "https://host/m?a=(b)&sig=SECRET",
        "https://host/m?to=https://other&sig=SECRET",
        "https://host/m?to=::https://other&sig=SECRET",
        "https://host/m#sig=SECRET",
        "https://host/m;token=SECRET",
        "https://host/m;token=SECRET?a=b",
        "https://me:SEC/RET@host/m",
        "https://me:1/SECRET@host/m",
        "https://me:SECRET@x/RET@host/m",
        "https://me:SECRET?x@host/m",
        "https://me:SECRET#x@host/m",
        "https://me:SECRET;x@host/m",
    ],
)
def test_no_way_of_writing_a_secret_shows_it(url: str) -> None:
    for text in (url, f"no: '{url}'", f"({url})", f"url={url!r}, and more"):
        shown = without_secrets(text)
        assert "SEC" not in shown
        assert "RET" not in shown
    assert without_secrets(f"url={url!r}, and more").endswith(", and more")


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/model",
        "is that right? no@where",
        "see https://host/m; try again",
        "http://localhost:8000/a/b and http://[::1]:80/m, or http://host:80: no",
        "https://host/owner/model@main",
        "file:///a/b?",
        "zip://a:b::file://C:/x",
        "",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text
