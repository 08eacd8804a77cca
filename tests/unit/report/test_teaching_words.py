"""What a report says of a teacher's outputs beside the label; the record may be anybody's."""

from edgekd.report import teaching

FOUND = {"correlation": 0.612, "images": 2000, "suspicious": False}


def test_every_outcome_has_its_words():
    assert teaching.sentence(FOUND).endswith(
        "(the bound is 0.3; on the digits that it comes from, normal teachers had 0.5 or more, nasty ones less than 0.2): "
        "nothing suspicious."
    )
    assert "correlate with the reference's by 0.612 on 2,000 images" in teaching.sentence(FOUND)
    assert "SUSPICIOUS" in teaching.sentence({**FOUND, "suspicious": True})
    assert "not judged" in teaching.sentence({**FOUND, "suspicious": None})
    for nothing in (None, {}, [], {"correlation": "x"}):
        assert "was not measured" in teaching.sentence(nothing)


def test_only_a_suspicious_one_is_warned_of_with_what_to_do():
    assert teaching.warning(None) is teaching.warning(FOUND) is teaching.warning({**FOUND, "suspicious": None}) is None
    assert teaching.warning([]) is teaching.warning("suspicious") is None, "the record may be anybody's"
    said = teaching.warning({**FOUND, "correlation": -0.04, "suspicious": True})
    assert "−0.04" in said
    assert "nasty teacher" in said
    assert "distill.temperature=1" in said
