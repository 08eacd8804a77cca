"""Names and messages of a record may be chosen by a stranger: 40 payloads x 12 fields (threat T10, matrix row M6)."""

from __future__ import annotations

import dataclasses
import functools
import io
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from edgekd import report
from edgekd.cli.compress import show
from edgekd.report.text import clean
from edgekd.types import RunRecord

MakeRecord = Callable[..., RunRecord]

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '" onfocus="alert(1)" autofocus="',
    "<svg onload=alert(1)>",
    "</text></svg><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "--><script>alert(1)</script><!--",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "<style>*{background:url(https://evil.example/x)}</style>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<iframe src=https://evil.example></iframe>",
    "<object data=https://evil.example></object>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<form action=https://evil.example><input autofocus></form>",
    "<a href=javascript:alert(1)>x</a>",
    "<math><mtext><script>alert(1)</script></mtext></math>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "$x_1$ \\frac{1}{2} $\\unknown$",
    "expression(alert(1)); background: url('https://evil.example')",
    '{"a": "</script>"}\\u2028\u2028',
    '=HYPERLINK("https://evil.example","x")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "[x](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "| new | cell |\n|---|---|\n\n# heading\n\n```html",
    "<https://evil.example> www.evil.example someone@evil.example",
    "**bold** _it_ ~~gone~~ `code` [ref]: https://evil.example",
    "\x1b[2J\x1b[31mred\x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "[bold red]markup[/bold red] [link=https://evil.example]x[/link] [/]",
    "invoice\u202egpj.exe\u2066\u2069\u200b\ufeff\x00\x08",
    "\ud800\udfff \ufffe \U0001f600 漢字 עברית \x9b31m",
)
FIELDS = (
    "name",
    "command",
    "verdict",
    "not_tested",
    "warning",
    "gate",
    "stage",
    "trigger",
    "class",
    "family",
    "file",
    "environment",
)
FORBIDDEN = {
    "script",
    "iframe",
    "object",
    "embed",
    "link",
    "base",
    "form",
    "input",
    "a",
    "math",
    "noscript",
    "template",
}


def poisoned(make: MakeRecord, payload: str) -> RunRecord:
    """A small record whose every free word starts with the field's name in brackets and goes on with the payload."""

    def bad(field: str) -> str:
        return f"@{field}@ {payload}"

    whole = make()
    rows = tuple(
        dataclasses.replace(
            row,
            stage=bad("stage") if row.kind == "control" else row.stage,
            notes=(bad("stage"),),
            triggers=tuple(dataclasses.replace(score, trigger=bad("trigger")) for score in row.triggers),
        )
        for row in whole.rows[-3::-5]
    )
    label = bad("class")
    example = {
        **whole.pictures["examples"][0],
        "label": label,
        "trigger": bad("trigger"),
        "predictions": {bad("stage"): label},
    }
    doubt = {"index": payload, "label": label, "predicted": label, "confidence": payload}
    battery = {"families": [bad("family")], "targets": [0], "class_names": [label], "excess": [[0.5]]}
    flagged = [{"family": bad("family"), "variant": payload, "target": payload, "asr": None, "floor": None}]
    attacked = {
        "name": bad("stage"),
        "tier": payload,
        "attacks": [{"attack": payload, "settings": {"objective": payload, "steps": payload, "step": payload}}],
        "checks": [{"check": payload, "passed": False, "found": payload}],
        "disagreement": {payload: None},
    }
    training = {bad("stage"): {"history": [{"epoch": 1, "loss": 1.0, "acc": 0.5}], "device": payload, "seed": payload}}
    return dataclasses.replace(
        whole,
        name=bad("name"),
        command=bad("command"),
        verdict=bad("verdict"),
        not_tested=(bad("not_tested"),),
        warnings=(bad("warning"),),
        gates=({"name": bad("gate"), "limit": 1, "value": 2, "passed": False, "unit": payload, "why": bad("gate")},),
        rows=rows,
        pictures={"triggers": [], "examples": [example]},
        disagreement={"count": payload, "total": 1, "top": [doubt, {**doubt, "file": payload}]},
        canaries={bad("stage"): {**battery, "flagged": flagged}},
        training=training,
        adversarial=(attacked,),
        teacher={"file": bad("file"), "sha256": payload},
        onnx=({"path": bad("file"), "flavour": payload, "sha256": payload, "float_layers": [payload]},),
        environment={bad("environment"): bad("environment")},
        config={payload: {payload: payload}},
        target=payload,
        commit=payload,
        device_report={"invalid_reasons": [payload], "environment": {payload: payload}},
    )


class Page(HTMLParser):
    """Every tag outside drawings, every attribute, all text, every comment."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.every: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[str] = []
        self.comments = 0
        self.drawings = 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.drawings += tag == "svg"
        self.every.add(tag)
        if not self.drawings:
            self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.drawings -= tag == "svg"

    def handle_data(self, data: str) -> None:
        if self.lasttag != "style":
            self.pieces.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments += 1


class Seen(NamedTuple):
    page: Page
    markdown: Page  # as a renderer shows it
    source: str
    terminal: str


@functools.cache
def rendered(make: MakeRecord, payload: str) -> Seen:
    record = poisoned(make, payload)
    stream = io.StringIO()
    Console(file=stream, width=4000, force_terminal=True, color_system=None).print(report.ledger(record))
    source = report.markdown(record)
    shown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)
    return Seen(Page(report.html(record)), Page(shown), source, stream.getvalue())


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
@pytest.mark.parametrize("field", FIELDS)
def test_a_payload_is_shown_as_text(make_record: MakeRecord, payload: str, field: str) -> None:
    seen = rendered(make_record, payload)
    shown = clean(f"@{field}@ {payload}")
    assert any(shown in piece for piece in seen.page.pieces)
    assert shown in "".join(seen.markdown.pieces)
    if field == "stage":
        assert shown in seen.terminal


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_payload_adds_nothing_to_the_page(make_record: MakeRecord, payload: str) -> None:
    page = rendered(make_record, payload).page
    assert page.tags == rendered(make_record, "harmless").page.tags
    assert not page.every & FORBIDDEN
    assert page.comments == 0
    assert page.drawings == 0
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name not in ("action", "formaction", "srcdoc", "data", "srcset", "ping", "poster", "xlink:href")
        if name == "href":
            assert value.startswith("#")
        if name == "src":
            assert value.startswith("data:image/png;base64,")
        if name == "style":
            assert "url(" not in value
            assert "expression" not in value
        assert "evil" not in value
        assert "alert" not in value
    assert harmful("".join(page.pieces)) == []


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_payload_adds_nothing_to_the_markdown(make_record: MakeRecord, payload: str) -> None:
    seen = rendered(make_record, payload)
    assert seen.markdown.tags == rendered(make_record, "harmless").markdown.tags
    assert seen.markdown.every <= set("h1 h2 h3 p ul li strong table thead tbody tr th td".split())
    assert seen.markdown.comments == 0
    assert "://" not in seen.source
    assert "www." not in seen.source
    assert harmful(seen.source) == []
    assert harmful(seen.terminal) == []


def harmful(text: str) -> list[str]:
    """Characters that act on a terminal, hide, or turn the direction of reading."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c != "\n"]


def test_there_are_enough_cases() -> None:
    assert len(set(PAYLOADS)) >= 40
    assert len(set(PAYLOADS)) * len(FIELDS) >= 480


def test_the_terminal_gets_no_codes_of_a_record(make_record: MakeRecord, capsys: pytest.CaptureFixture[str]) -> None:
    code = "\x1b]0;renamed\x07\x1b[2J\x9b1m"
    gate = {**make_record().gates[0], "name": code + "gate", "unit": code, "why": code}
    texts = dict.fromkeys(("name", "verdict", "manifest_sha256"), code)
    show(make_record(gates=(gate,), not_tested=(code + "all",), warnings=(code,), **texts), Path("run"), False)
    shown = capsys.readouterr().out
    assert "Not tested: all." in shown
    assert not any(unicodedata.category(c) == "Cc" for c in shown if c != "\n")
