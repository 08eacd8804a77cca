"""Every name of TensorRT's that a source file uses, read from its syntax tree, so that the list cannot go stale.

The tensorrt module is what is called ``trt`` or ``self._trt``; an object of it is a variable or argument annotated with
``tensorrt.SomeClass``. What stands under ``if hasattr(trt.A, "B"):`` is meant for the versions that have A.B, and what
stands under its ``else:`` for those that have not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Use:
    """``owner`` is "" for the module, else a class; ``name`` may have dots: an enum's value, a nested class's."""

    where: str
    owner: str
    name: str
    guards: tuple[tuple[str, bool], ...]  # ("BuilderFlag.INT8", whether it must be there)
    positional: int | None = None  # arguments of a call; None where it is none
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stray:
    """An attribute of something whose class is not known."""

    where: str
    receiver: str
    name: str


def read(path: Path) -> tuple[list[Use], list[Stray]]:
    """The uses in one file, and what could be one if only it were annotated."""
    reader = _Reader(path.name)
    reader.visit(ast.parse(path.read_text(encoding="utf-8")))
    return reader.uses, reader.strays


class _Reader(ast.NodeVisitor):
    def __init__(self, file: str) -> None:
        self.file = file
        self.uses: list[Use] = []
        self.strays: list[Stray] = []
        self._classes: dict[str, str] = {}
        self._guards: tuple[tuple[str, bool], ...] = ()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer = dict(self._classes)
        self._classes.update(_annotated(node))
        for part in node.body:
            self.visit(part)
        self._classes = outer

    def visit_If(self, node: ast.If) -> None:
        asked = self._hasattr(node.test)
        outer = self._guards
        if asked is None:
            self.visit(node.test)
        else:
            self.uses.append(self._use(node.test, "", asked.rpartition(".")[0]))
        for there, body in ((True, node.body), (False, node.orelse)):
            self._guards = outer if asked is None else (*outer, (asked, there))
            for part in body:
                self.visit(part)
        self._guards = outer

    def _hasattr(self, test: ast.expr) -> str | None:
        if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
            what, name = test.args
            found = self._resolved(what)
            if found is not None and found[0] == "" and isinstance(name, ast.Constant):
                return f"{found[1]}.{name.value}"
        return None

    def visit_Call(self, node: ast.Call) -> None:
        found = self._resolved(node.func) if isinstance(node.func, ast.Attribute) else None
        if found is None:
            self.visit(node.func)
        else:
            names = tuple(word.arg or "**" for word in node.keywords)
            self.uses.append(self._use(node, *found, len(node.args), names))
        for part in (*node.args, *(word.value for word in node.keywords)):
            self.visit(part)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        found = self._resolved(node)
        if found is None:
            self.strays.append(Stray(f"{self.file}:{node.lineno}", ast.unparse(node.value), node.attr))
            self.visit(node.value)
        elif found[1]:
            self.uses.append(self._use(node, *found))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)  # the annotation itself is read by `_annotated`

    def _resolved(self, node: ast.expr) -> tuple[str, str] | None:
        """(owner, dotted name) of an expression that starts at the module or an annotated object; None for any other."""
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            if ast.unparse(node) == "self._trt":
                return "", ".".join(reversed(names))
            names.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in ("trt", "tensorrt"):
            return "", ".".join(reversed(names))
        if isinstance(node, ast.Name) and node.id in self._classes and len(names) == 1:
            return self._classes[node.id], names[0]
        return None

    def _use(self, node: ast.AST, owner: str, name: str, positional: int | None = None, words: tuple = ()) -> Use:
        return Use(f"{self.file}:{getattr(node, 'lineno', 0)}", owner, name, self._guards, positional, words)


def _annotated(node: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    """(variable or argument, class) of everything in a function that is annotated with a class of TensorRT's."""
    pairs = [(arg.arg, arg.annotation) for arg in (*node.args.args, *node.args.kwonlyargs)]
    for part in ast.walk(node):
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            pairs.append((part.target.id, part.annotation))
    for name, annotation in pairs:
        if isinstance(annotation, ast.Attribute) and ast.unparse(annotation.value) == "tensorrt":
            yield name, annotation.attr
