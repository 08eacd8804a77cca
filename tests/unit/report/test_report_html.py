from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from edgekd import report
from edgekd.errors import UsageError
from edgekd.files import read_json, write_json
from edgekd.report import pictures
from edgekd.types import RunRecord

MakeRecord = Callable[..., RunRecord]


@pytest.fixture(scope="module")
def page(make_record: MakeRecord) -> str:
    return report.html(make_record())


def words(page: str) -> str:
    body = page[page.index("<body") :]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_the_first_line_is_the_verdict_and_what_was_not_tested(page: str, make_record: MakeRecord) -> None:
    said = words(page)
    assert said.startswith(make_record().verdict + " Not tested: sample-specific and learned triggers;")
    assert said.index("Gates: 1 passed") < said.index("Stage ledger")


def test_disagreement_is_not_called_the_mark_of_all_poisoned_data(page: str) -> None:
    said = words(page)
    assert "If they kept their own label, they show as confident disagreement" in said
    assert "If they have the attacker's label, a backdoored teacher agrees with it" in said


def test_the_page_stands_alone(page: str) -> None:
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert "@import" not in page
    assert set(re.findall(r'\bsrc="([^"]{0,22})', page)) == {"data:image/png;base64,"}
    assert all(target.startswith("#") for target in re.findall(r'\bhref="([^"]*)', page))


def test_ids_are_unique_and_every_reference_is_met(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", page)) <= set(ids)


def test_the_same_record_gives_the_same_bytes_in_another_process(
    page: str, make_record: MakeRecord, tmp_path: Path
) -> None:
    write_json(tmp_path / "run.json", make_record().to_json())
    program = (
        "import sys; from edgekd import report; from edgekd.types import RunRecord; from edgekd.files import read_json;"
        "report.write(sys.argv[1], RunRecord.from_json(read_json(sys.argv[1] + '/run.json')));"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)
    again = RunRecord.from_json(read_json(tmp_path / "run.json"))
    # JSON sorts the keys of the lists of facts; everything else is equal, and the sorted record renders to equal bytes
    assert (tmp_path / "report.html").read_text("utf-8") == report.html(again)
    assert (tmp_path / "report.md").read_text("utf-8") == report.markdown(again)


def test_importing_the_package_loads_no_drawing_library() -> None:
    program = (
        "import sys, edgekd.report; assert not {'matplotlib', 'jinja2', 'rich', 'PIL', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_figures_take_their_colours_from_the_page(page: str) -> None:
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        assert not re.findall(r"#[0-9a-f]{6}\b", drawing)
        assert "var(--ink)" in drawing
        assert "mathdefault" not in drawing


@pytest.mark.parametrize(
    "gone",
    [
        {"rows": ()},
        {"gates": ()},
        {"canaries": None},
        {"pictures": {}},
        {"disagreement": None},
        {"training": {}},
        {"onnx": ()},
        {"device_report": None},
        {"not_tested": ()},
        {"warnings": ()},
        {"training": {"x": {"history": [{"epoch": 1, "loss": -0.5}]}, "_y": {"history": [{"loss": "?"}]}, "z": 3}},
        {"disagreement": {"count": 3, "total": 0, "top": [{"index": 5}, None]}},
        {"canaries": {"families": ["a"], "targets": []}},
        {"teacher": {}, "student": {}, "data": {}, "config": {}, "environment": {}},
    ],
    ids=lambda gone: "-".join(gone),
)
def test_a_record_with_gaps_is_still_a_page(make_record: MakeRecord, gone: dict[str, object]) -> None:
    small = {"pictures": {}, "disagreement": None, "training": {}, "canaries": None, **gone}
    record = make_record(**small)
    assert "</html>" in report.html(record)
    assert "## Stage ledger" in report.markdown(record)


def test_nothing_measured_is_a_page_of_not_measured(make_record: MakeRecord) -> None:
    rows = tuple(dataclasses.replace(row, acc=None, triggers=(), latency=None) for row in make_record().rows)
    said = words(report.html(make_record(rows=rows, canaries=None, pictures={}, disagreement=None, training={})))
    assert "ACC not measured teacher not measured" in said
    assert "The canary battery did not run." in said
    assert "were not compared" in said


def test_many_classes_still_fit(make_record: MakeRecord) -> None:
    battery = {"families": ["a", "b"], "targets": list(range(200)), "excess": [[0.01] * 200, [None] * 200]}
    page = report.html(make_record(canaries={"teacher": battery, "student": battery}, pictures={}, training={}))
    assert page.count("2 families, 200 classes") == 2


def test_pictures_are_written_anew_without_text() -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "made by somebody")
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, format="PNG", pnginfo=note)
    assert b"somebody" in stream.getvalue()
    uri = pictures.data_uri(base64.b64encode(stream.getvalue()).decode())
    kept = base64.b64decode(uri.partition(",")[2])
    assert b"somebody" not in kept
    with Image.open(io.BytesIO(kept)) as picture:
        assert picture.getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("value", [None, 7, "", "no base64!", "aGVsbG8=", "iVBORw0KGgo="])
def test_what_is_no_picture_is_left_out(value: object) -> None:
    assert pictures.data_uri(value) == ""


def test_a_huge_or_torn_picture_is_left_out() -> None:
    stream = io.BytesIO()
    Image.new("L", (2000, 4)).save(stream, format="PNG")
    assert pictures.data_uri(base64.b64encode(stream.getvalue()).decode()) == ""
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, format="PNG")
    assert pictures.data_uri(base64.b64encode(stream.getvalue()[:-30]).decode()) == ""


def test_markdown_holds_the_ledger_and_the_canaries(make_record: MakeRecord) -> None:
    page = report.markdown(make_record())
    assert page.startswith("# The student that ships")
    assert "| teacher (torch · fp32) | 83.36 % (8,336 of 10,000; 82.6–84.1) | 99.99 %" in page
    assert "| patch | +97.00 | airplane |" in page
    columns = {line.count(" | ") for line in page.splitlines() if line.startswith("| teacher") or "| stage" in line}
    assert len(columns) == 1


@pytest.mark.parametrize(
    "name", ["gates", "config", "teacher", "student", "data", "rows", "warnings", "verdict", "pictures"]
)
def test_a_field_of_another_kind_is_a_users_error(make_record: MakeRecord, name: str) -> None:
    kept = json.loads(json.dumps(make_record().to_json()))
    assert RunRecord.from_json(kept).rows == make_record().rows
    for wrong in (None, 7, [7]):
        with pytest.raises(UsageError, match=name):
            RunRecord.from_json({**kept, name: wrong})
