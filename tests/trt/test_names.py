"""Every name that the TensorRT code uses exists in NVIDIA's own bindings of four versions, and takes what it is given."""

from __future__ import annotations

import ctypes
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import bindings
import fetch
import names
import pytest

RUNTIME = bindings.DEPLOY / "edgekd_device" / "runtime"
FILES = sorted(RUNTIME.glob("trt*.py"))
FAMILIES = {version: "10.3.0" if version.startswith("10") else "11.4.0" for version in fetch.BINDINGS}
# Not TensorRT's, though some of its classes have members of the same names: modules, arrays and values of ours.
OURS = (
    *(
        "cuda",
        "graph_facts",
        "gpu",
        "self._gpu",
        "device",
        "how",
        "kept",
        "store.load(TIMINGS, tied)",
        "thread",
        "self",
    ),
    *("images", "values", "inputs[0]", "self._stage"),
)
BUILT_IN = {*dir(list), *dir(dict)}

pytestmark = pytest.mark.trt


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """What one version's bindings have; each is asked once."""

    @functools.lru_cache(None)
    def ask(version: str) -> dict[str, Any]:
        libraries = bindings.stubs(tmp_path_factory.mktemp("stubs"), version.split(".")[0])
        return json.loads(bindings.run([bindings.wheel(version)], libraries, bindings.HERE / "describe.py"))

    return ask


@pytest.fixture(params=sorted(fetch.BINDINGS))
def offered(request: pytest.FixtureRequest, described: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return described(request.param)


def uses() -> list[names.Use]:
    return [use for path in FILES for use in names.read(path)[0]]


def found(offered: dict[str, Any], owner: str, name: str) -> Any:
    """Signatures of a name, a class's own members for a class, None where it does not exist."""
    classes = offered["classes"]
    if owner:
        return classes.get(owner, {}).get(name)
    first, _, rest = name.rpartition(".")
    if not first:
        return classes[name]["__init__"] if name in classes else offered["module"].get(name)
    return classes.get(first, {}).get(rest)


def meant(use: names.Use, offered: dict[str, Any]) -> bool:
    """Whether the branch that a use stands in is run with this version."""
    return all((found(offered, "", name) is not None) == there for name, there in use.guards)


def takes(signatures: list[list[list[Any]]], positional: int, keywords: tuple[str, ...]) -> bool:
    """Whether one of the overloads takes that many arguments by position, and these by name."""
    for parameters in signatures:
        rest = parameters[positional:]
        known = {name for name, _ in rest}
        needed = {name for name, default in rest if not default}
        if positional <= len(parameters) and needed <= set(keywords) <= known:
            return True
    return not signatures


def explicit_self(use: names.Use) -> bool:
    """Whether a call gives the object itself: Class.method(object)."""
    return use.owner == "" and use.name.endswith(".__init__")


def test_the_list_is_long_enough_to_mean_something():
    assert len(FILES) == 4
    listed = uses()
    assert len({(use.owner, use.name) for use in listed}) > 50
    for word in ("build_serialized_network", "execute_async_v3", "deserialize_cuda_engine", "set_tensor_address"):
        assert word in [use.name for use in listed]
    assert {use.name for use in listed if use.guards} == {"set_flag", "BuilderFlag.FP16", "BuilderFlag.INT8"}


def test_the_check_finds_what_is_wrong(offered, tmp_path):
    """Misspelt, in the wrong branch, too many arguments: each is seen."""
    text = """
def f(trt, network: tensorrt.INetworkDefinition):
    network.num_input
    network.get_input(1, 2)
    network.get_input(place=1)
    trt.BuilderFlag.INT9
    if hasattr(trt.BuilderFlag, "INT8"):
        trt.BuilderFlag.INT8
    else:
        trt.BuilderFlag.INT8
    config.set_flag(1)
"""
    (tmp_path / "wrong.py").write_text(text)
    listed, strays = names.read(tmp_path / "wrong.py")
    said = [line.split(":")[1] for line in faults(listed, offered)]
    assert said == ["3", "4", "5", "6", *([] if offered["version"].startswith("10") else ["10"])]
    assert [(stray.receiver, stray.name) for stray in strays] == [("config", "set_flag")]


def test_every_name_exists_and_takes_what_it_is_given(offered):
    assert faults(uses(), offered) == []


def faults(listed: list[names.Use], offered: dict[str, Any]) -> list[str]:
    """What does not exist in one version, or takes other arguments."""
    wrong = []
    for use in listed:
        if not meant(use, offered):
            continue
        signatures = found(offered, use.owner, use.name)
        if signatures is None:
            wrong.append(f"{use.where}: {use.owner or 'tensorrt'}.{use.name} does not exist in {offered['version']}")
        elif use.positional is not None and not takes(signatures, use.positional - explicit_self(use), use.keywords):
            wrong.append(f"{use.where}: {use.name} of {offered['version']} takes {signatures}")
    return wrong


def test_no_object_of_theirs_goes_without_an_annotation(offered):
    """An attribute of something unknown whose name is a member of one of their classes is probably theirs."""
    theirs = {member for kind in offered["classes"].values() for member in kind if not member.startswith("_")}
    strays = [stray for path in FILES for stray in names.read(path)[1]]
    assert [stray for stray in strays if stray.name in theirs - BUILT_IN and stray.receiver not in OURS] == []


def test_each_branch_is_meant_for_some_version(described):
    """A branch that no version takes would never be checked."""
    versions = [described(version) for version in fetch.BINDINGS]
    assert [use for use in uses() if not any(meant(use, offered) for offered in versions)] == []


def test_the_fake_has_nothing_that_the_real_one_lacks(offered, monkeypatch):
    """Classes, members, enum values and arguments of tests/device/fake_tensorrt.py."""
    monkeypatch.syspath_prepend(str(bindings.HERE.parent / "device"))
    import fake_tensorrt

    family = FAMILIES[offered["version"]]
    module, _ = fake_tensorrt.make(family, ctypes.CDLL(None))
    wrong = []
    for name, kind in vars(module).items():
        if name.startswith("_"):
            continue
        members = [m for m in vars(kind) if not m.startswith("_") and m not in ("log", "kept")]
        inner = [
            f"{m}.{value.name}" for m in members if isinstance(getattr(kind, m), type) for value in getattr(kind, m)
        ]
        for member in [*members, *inner]:
            signatures = found(offered, "", f"{name}.{member}")
            value = getattr(kind, member, None)
            if signatures is None:
                wrong.append(f"{name}.{member}")
            elif inspect.isfunction(value):
                ours = [p.name for p in list(inspect.signature(value).parameters.values())[1:]]
                if signatures and ours not in [[p for p, _ in s][: len(ours)] for s in signatures]:
                    wrong.append(f"{name}.{member}({ours}) is {signatures}")
    assert wrong == []


def test_a_logger_can_be_made_of_the_real_class(tmp_path):
    """Our subclass of ILogger, which is the one object that needs no library."""
    code = (
        "import tensorrt_bindings as trt\n"
        "from edgekd_device.runtime import trt_build\n"
        "log = trt_build.open_log(trt)\n"
        "log.log(trt.ILogger.Severity.INFO, 'quiet')\n"
        "log.log(trt.ILogger.Severity.WARNING, 'a warning')\n"
        "log.log(trt.ILogger.Severity.ERROR, 'an\\nerror')\n"
        "assert log.lines == [(False, 'a warning'), (True, 'an\\nerror')]\n"
        "print(trt_build.last_error(log), trt_build.open_log(trt) is log, log.lines)\n"
    )
    (tmp_path / "log.py").write_text(code)
    for version in fetch.BINDINGS:
        libraries = bindings.stubs(tmp_path / version, version.split(".")[0])
        assert bindings.run([bindings.wheel(version)], libraries, tmp_path / "log.py") == " (an error) True []\n"


def test_the_real_8_6_is_refused_in_one_sentence(tmp_path):
    code = (
        "from edgekd_device.runtime import base\n"
        "try: base.make('tensorrt')\n"
        "except Exception as error: print(error.exit_code, error)\n"
    )
    (tmp_path / "old.py").write_text(code)
    folders = [bindings.wheel("8.6.1"), bindings.alias(tmp_path / "alias")]
    said = bindings.run(folders, bindings.stubs(tmp_path / "stubs", "8"), tmp_path / "old.py")
    assert said.startswith("4 TensorRT 8.6.1 is too old: edgekd needs 10.3 or newer")
    assert said.count("\n") == 1


def test_a_real_module_without_a_gpu_is_one_message(tmp_path):
    """The real bindings of each version, up to where a GPU is needed."""
    code = (
        "from pathlib import Path\n"
        "import sys\n"
        "from edgekd_device.runtime import base\n"
        "runner = base.make('tensorrt')\n"
        "print(runner.version, list(runner.foreign))\n"
    )
    (tmp_path / "make.py").write_text(code)
    for version in fetch.BINDINGS:
        libraries = bindings.stubs(tmp_path / version, version.split(".")[0])
        folders = [bindings.wheel(version), bindings.alias(tmp_path / "alias")]
        foreign = [] if version.startswith("10") else ["model.qdq.onnx"]
        assert bindings.run(folders, libraries, tmp_path / "make.py") == f"{version} {foreign}\n"


def test_a_wheel_that_cannot_load_its_libraries_is_one_message(tmp_path):
    (tmp_path / "make.py").write_text(
        "from edgekd_device.runtime import base\ntry: base.make('tensorrt')\nexcept Exception as error: print(error)\n"
    )
    folders = [bindings.wheel("10.3.0"), bindings.alias(tmp_path / "alias")]
    said = bindings.run(folders, tmp_path, tmp_path / "make.py")
    assert "sudo apt install nvidia-jetpack" in said
    assert "It said: libnv" in said
