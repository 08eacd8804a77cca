"""A pickle machine of our own: it builds dicts, lists and plain values, and looks nothing up.

A name in the file is compared with a table of data-only builders and is refused when it is not there; no module is
imported, no class is found, no attribute is set on behalf of the file. `pickletools.genops` only cuts bytes into steps.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UnsafeInput, UsageError
from . import limits
from .wording import DAMAGED, WAY_OUT, printable


@dataclass(frozen=True)
class Global:
    """A name that the file asks for; it stays a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


Builder = Callable[..., Any]
PLAIN = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 NEWTRUE NEWFALSE NONE".split()
)
CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
STRINGS_2 = frozenset("SHORT_BINSTRING BINSTRING".split())  # Python 2's str: text in one file, bytes in another
BYTES = frozenset("SHORT_BINBYTES BINBYTES BINBYTES8".split())
CHECKPOINT_OPCODES = (
    PLAIN
    | STRINGS_2
    | frozenset(
        "PROTO FRAME EMPTY_DICT EMPTY_TUPLE EMPTY_LIST MARK BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE GLOBAL REDUCE "
        "TUPLE TUPLE1 TUPLE2 TUPLE3 BINPERSID SETITEM SETITEMS APPEND APPENDS STOP BUILD".split()
    )
)
CODE_OPCODES = frozenset("GLOBAL STACK_GLOBAL INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 REDUCE BUILD".split())
KEYS = (str, bytes, int, float, bool, type(None))


@dataclass(frozen=True)
class Rules:
    """What one kind of pickle may hold: opcodes by name; names, each with its builder or None for a mere marker."""

    opcodes: frozenset[str]
    names: Mapping[Global, Builder | None]
    persistent: Callable[[Any], Any] | None = None
    states: Mapping[type, Callable[[Any, Any], Any]] = field(default_factory=dict)  # what BUILD may act on
    hints: Mapping[str, str] = field(default_factory=dict)  # name -> what to say about it
    strings_2_are_bytes: bool = False
    string_limit: int = limits.STRING_CHARACTERS
    way_out: str = WAY_OUT


def refuse_name(name: Global, rules: Rules) -> UnsafeInput:
    """The refusal of a name that is not in the table."""
    hint = rules.hints.get(name.name)
    if hint:
        return UnsafeInput(f"It holds {hint}, which is not read (the pickle names {name}). {rules.way_out}")
    return UnsafeInput(f"Its pickle names {name}: that is code, not data. {rules.way_out}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that old texts with backslashes cause: they are not about our code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def read(data: bytes, rules: Rules, start: int = 0) -> tuple[Any, int]:
    """The value of the pickle at ``data[start:]`` and the position after it.

    Raises UnsafeInput for an opcode or a name outside the rules, UsageError for a damaged pickle.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    machine = Machine(rules)
    try:
        with quiet():
            for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
                if count >= limits.OPCODES:
                    raise UnsafeInput(f"Its pickle has more than {limits.OPCODES} steps. {rules.way_out}")
                machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise UsageError(f"Its pickle cannot be read ({printable(error)}). {DAMAGED}") from error
    return machine.stack[-1], stream.tell()


class Machine:
    """The stack and the memo; ``step`` acts on one opcode."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        if opcode not in self.rules.opcodes:
            raise self.refuse_opcode(opcode, argument)
        if isinstance(argument, (str, bytes)) and len(argument) > self.rules.string_limit:
            raise UnsafeInput(
                f"Its pickle has a text of {len(argument)} characters; state dicts have none. {self.rules.way_out}"
            )
        if opcode in CONSTANTS:
            self.stack.append(CONSTANTS[opcode])
        elif opcode in PLAIN or opcode in BYTES:
            self.stack.append(argument)
        elif opcode in STRINGS_2:
            self.stack.append(argument.encode("latin-1") if self.rules.strings_2_are_bytes else argument)
        else:
            _STEPS[opcode](self, argument)

    def refuse_opcode(self, opcode: str, argument: Any) -> UnsafeInput:
        named = argument if opcode == "INST" else ""
        if opcode == "STACK_GLOBAL" and all(isinstance(part, str) for part in self.stack[-2:]):
            named = ".".join(self.stack[-2:])
        found = f" for {printable(named)}" if named else ""
        kind = "objects of code" if opcode in CODE_OPCODES else "something that no state dict needs"
        return UnsafeInput(f"Its pickle uses {opcode}{found}, a step that makes {kind}. {self.rules.way_out}")

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def nothing(self, argument: Any) -> None:
        pass

    def stop(self, argument: Any) -> None:
        if len(self.stack) != 1 or self.below:
            raise ValueError("values are left over at its end")

    def mark(self, argument: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def empty_dict(self, argument: Any) -> None:
        self.stack.append({})

    def empty_list(self, argument: Any) -> None:
        self.stack.append([])

    def empty_tuple(self, argument: Any) -> None:
        self.stack.append(())

    def tuple_of_mark(self, argument: Any) -> None:
        items = self.since_mark()
        self.stack.append(tuple(items))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def put(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: Any) -> None:
        self.stack.append(self.memo[index])

    def append(self, argument: Any) -> None:
        self.extend([self.stack.pop()])

    def appends(self, argument: Any) -> None:
        self.extend(self.since_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError("it appends to something that is not a list")
        self.stack[-1].extend(items)

    def set_item(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def set_items(self, argument: Any) -> None:
        self.update(self.since_mark())

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError("it sets an item of something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, KEYS):
                raise TypeError("a key is neither text nor a number")
            target[key] = value

    def name(self, argument: str) -> None:
        self.push_name(*argument.split(" ", 1))

    def name_from_stack(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name is not text")
        self.push_name(module, name)

    def push_name(self, module: str, name: str) -> None:
        wanted = Global(module, name)
        if wanted not in self.rules.names:
            raise refuse_name(wanted, self.rules)
        self.stack.append(wanted)

    def reduce(self, argument: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        builder = self.rules.names.get(name) if isinstance(name, Global) else None
        if builder is None or type(arguments) is not tuple:
            called = str(name) if isinstance(name, Global) else f"a {type(name).__name__}"
            raise UnsafeInput(f"Its pickle calls {called}, which does not build tensors. {self.rules.way_out}")
        self.stack.append(builder(*arguments))

    def build(self, argument: Any) -> None:
        state = self.stack.pop()
        act = self.rules.states.get(type(self.stack[-1]))
        if act is None:
            raise UnsafeInput(f"Its pickle sets the state of a {type(self.stack[-1]).__name__}. {self.rules.way_out}")
        self.stack[-1] = act(self.stack[-1], state)

    def persistent(self, argument: Any) -> None:
        if self.rules.persistent is None:
            raise UnsafeInput(f"Its pickle refers to data outside itself. {self.rules.way_out}")
        self.stack.append(self.rules.persistent(self.stack.pop()))


_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": Machine.nothing,
    "FRAME": Machine.nothing,
    "STOP": Machine.stop,
    "MARK": Machine.mark,
    "EMPTY_DICT": Machine.empty_dict,
    "EMPTY_LIST": Machine.empty_list,
    "EMPTY_TUPLE": Machine.empty_tuple,
    "TUPLE": Machine.tuple_of_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.put,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "APPEND": Machine.append,
    "APPENDS": Machine.appends,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
    "GLOBAL": Machine.name,
    "STACK_GLOBAL": Machine.name_from_stack,
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
    "BINPERSID": Machine.persistent,
}
