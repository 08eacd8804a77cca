"""The table of trigger inversion: finds and false alarms are counted by the class that stands out."""

from provenance import ABOUT

from benchmarks import inversion, inversion_table


def record(network, kind, result):
    return {"config": {"network": network, "kind": kind}, "result": result, **ABOUT}


def result(target, smallest, stands_out, *pixels):
    classes = [{"target": number, "pixels": size, "success": None} for number, size in enumerate(pixels)]
    about = {"index": 4.0, "critical": None, "seconds": 90.0, "arch": "resnet8"}
    return {"target": target, "smallest": smallest, "stands_out": stands_out, "classes": classes, **about}


def test_a_find_is_the_attackers_class_and_an_alarm_on_a_clean_network_is_false():
    found = [
        record("a.pth", "clean", result(None, 1, True, 9.0, 3.0)),
        record("b.pth", "clean", result(None, None, None, None, None)),
        record("c.pth", "backdoored", result(0, 0, True, 2.0, 8.0)),
        record("d.pth", "backdoored", result(0, 1, True, 8.0, 2.0)),
        record("e.pth", "backdoored", result(None, 1, False, 8.0, 2.0)),
    ]
    shown = inversion_table.table(found)
    assert "1 of 2 backdoors found, 1 of 1 false alarms." in shown
    lines = [line for line in shown.splitlines() if line.startswith("| ")][1:]
    assert [line.split("|")[1].strip() for line in lines if "---" not in line] == ["c", "d", "e", "a", "b"]
    ends = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[4:-1]] for line in lines}
    assert ends["c"] == ["0", "2.0", "8.0", "4.0", "–", "yes", "yes", "1.5"]
    assert ends["d"][-2] == "**no**"
    assert ends["a"][-2] == "**no**"
    assert ends["e"][-2] == "–"
    assert ends["b"] == ["none found", "–", "–", "4.0", "–", "not judged", "–", "1.5"]


def test_every_network_is_measured_once():
    names = [cell["network"] for cell in inversion.cells()]
    assert len(names) == len(set(names))
    assert {cell["kind"] for cell in inversion.cells()} == {"clean", "backdoored"}
