from __future__ import annotations

import pytest

from edgekd.report import text
from edgekd_device.metrics import Rate, difference_interval


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain name", "plain name"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;https://a.example\x07link\x1b]8;;\x07", "link"),
        ("\x9b2Jgone", "gone"),
        ("\x1b]0;title never ends", ""),
        ("bell\x07 back\x08 null\x00", "bell back null"),
        ("exe\u202egpj.cod", "exegpj.cod"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("half \ud800 pair", "half \ufffd pair"),
        ("line\u2028separator", "line separator"),
        ("/home/ann/teachers/net.pth", "…/net.pth"),
        ("--data /srv/a/b.npz --out runs/x", "--data …/b.npz --out runs/x"),
        ("../shared/data and 3/4 and a/b", "../shared/data and 3/4 and a/b"),
        ("https://a.example/b/c", "https://a.example/b/c"),
        (7, "7"),
        ("x" * 5000, "x" * 1999 + "…"),
    ],
)
def test_clean_takes_away_what_acts_or_misleads(given: object, shown: str) -> None:
    assert text.clean(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a | b", r"a \| b"),
        ("`code`", r"\`code\`"),
        ("[x](https://a.example)", r"\[x\](https&#58;//a.example)"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("www.a.example", "www&#46;a.example"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("--- x", r"\--- x"),
        ("-5 points (+97.00)", "-5 points (+97.00)"),
        ("__x__ a_b_c _y", r"\_\_x\_\_ a_b_c \_y"),
        ("# no heading", r"\# no heading"),
    ],
)
def test_markdown_shows_the_text_as_it_is(given: str, shown: str) -> None:
    assert text.markdown(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "not measured"),
        (0, "0"),
        (0.0, "0"),
        (1234567, "1,234,567"),
        (0.18712, "0.187"),
        (12.0, "12"),
        (-3.25, "−3.25"),
        (4.1e-12, "4.10e-12"),
        (float("nan"), "not a number"),
        (float("inf"), "infinite"),
        (99999.4, "99,999"),
    ],
)
def test_figures_have_three_digits_and_never_hide_what_is_missing(given: float | None, shown: str) -> None:
    assert text.figure(given) == shown


def test_rates_say_count_and_interval() -> None:
    rate = Rate(8336, 10_000)
    assert (text.percent(rate), text.count(rate), text.interval(rate)) == ("83.36 %", "8,336 of 10,000", "82.6–84.1")
    assert (text.percent(None), text.count(None), text.interval(None)) == ("not measured", "", "")
    assert (text.percent(Rate(0, 0)), text.interval(Rate(0, 0))) == ("nothing to count", "")
    assert text.points(-0.0006) == "−0.06"
    assert text.points(None) == text.points(float("nan")) == "not measured"


def test_units_keep_figures_short() -> None:
    assert (text.size(137_420), text.size(1_426_646), text.size(None)) == ("134 KiB", "1.36 MiB", "not measured")
    assert (text.many(27_300_000), text.many(950)) == ("27.3 M", "950")
    assert (text.milliseconds(0.187), text.milliseconds(None)) == ("0.187 ms", "not measured")
    assert (text.seconds(41.3), text.seconds(311.0), text.seconds(None)) == ("41.3 s", "5.18 min", "not measured")
    assert (text.short(0.5), text.short(120.0), text.short(None)) == ("0.5", "120", "not measured")


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe 1998, Statistics in Medicine 17:873, table II, method 10
    assert difference_interval(Rate(56, 70), Rate(48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval(Rate(9, 10), Rate(3, 10)) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert difference_interval(Rate(10, 10), Rate(0, 20)) == pytest.approx((0.6791, 1.0), abs=5e-5)
    assert difference_interval(Rate(0, 0), Rate(1, 2)) == (-1.0, 1.0)
