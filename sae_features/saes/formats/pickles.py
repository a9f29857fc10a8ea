"""What the pickle of a checkpoint declares: it is read, and never run.

``torch.save`` writes dictionaries of tensors with few of a pickle's instructions.  These are followed
here, with what they would build replaced by records of it; any other ends in an error.
"""

from __future__ import annotations

import math
import pickletools
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_features.errors import SAEFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_BYTES = 2**18
MAX_VALUES = 10_000
"""Shared parts count each time that they occur: otherwise a few bytes could stand for any number."""
MAX_DEPTH = 32
STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}


class Storage(NamedTuple):
    """Numbers that stand in a record of the file."""

    dtype: str
    itemsize: int
    key: str
    """Name of the record, after ``data/``."""
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return self.numel * self.itemsize


class StoredTensor(NamedTuple):
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.storage.itemsize


class _Global(str):
    """A name of something in a module, which is not looked up."""

    __slots__ = ()


class _RefusedError(Exception):
    """What a pickle does that one of tensors does not."""


_MARK = object()


def read_pickle(content: bytes) -> dict[Any, Any]:
    """Return what a checkpoint's pickle declares.

    Parameters
    ----------
    content : bytes
        As ``torch.save`` writes ``data.pkl``.

    Returns
    -------
    dict
        With plain values, lists, dictionaries, and :class:`StoredTensor` in place of tensors.

    Raises
    ------
    SAEFormatError
        If it needs anything but tensors and plain values, or is damaged.  The message has no file's
        name.
    """
    if len(content) > MAX_BYTES:
        raise SAEFormatError(f"got a pickle of {len(content)} bytes; expected at most {MAX_BYTES}.")
    try:
        declared = _follow(content)
        _count(declared)
    except _RefusedError as error:
        message = (
            f"got a pickle that needs {error}; expected nothing but tensors and plain values, since "
            "more than that could run code. If you trust the file, load it with the library that wrote "
            "it, and save its tensors with safetensors.torch.save_file."
        )
        raise SAEFormatError(message) from None
    except Exception as error:  # a damaged stream leads to whatever
        raise SAEFormatError(f"got a damaged pickle: {type(error).__name__}: {error!s:.200}.") from error
    if not isinstance(declared, dict):
        kind = "tensor" if isinstance(declared, StoredTensor) else type(declared).__name__
        raise SAEFormatError(f"got a {kind}; expected a dictionary of tensors by name.")
    return declared


def _follow(content: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in _SKIPPED:
            continue
        if name in _PUSHED:
            stack.append(_PUSHED[name]())
        elif name in _ARGUMENTS:
            stack.append(argument)
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _BUILDERS:
            _BUILDERS[name](stack)
        elif name == "STOP":
            break
        else:
            raise _RefusedError(f"the opcode {name}")
    (declared,) = stack
    return declared


def _global(named: str) -> _Global:
    if named not in ALLOWED_GLOBALS:
        raise _RefusedError(repr(named.replace(" ", ".")[:200]))
    return _Global(named)


def _since_mark(stack: list[Any]) -> list[Any]:
    values = []
    while stack[-1] is not _MARK:
        values.append(stack.pop())
    stack.pop()
    return values[::-1]


def _make_tuple(stack: list[Any]) -> None:
    stack.append(tuple(_since_mark(stack)))


def _make_short_tuple(stack: list[Any], size: int) -> None:
    values = tuple(stack[-size:])
    del stack[-size:]
    stack.append(values)


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    _needs(type(stack[-1]) is list, "an append to something else than a list")
    stack[-1].append(value)


def _extend(stack: list[Any]) -> None:
    values = _since_mark(stack)
    _needs(type(stack[-1]) is list, "an append to something else than a list")
    stack[-1].extend(values)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _set(stack[-1], [key, value])


def _set_items(stack: list[Any]) -> None:
    values = _since_mark(stack)
    _set(stack[-1], values)


def _set(target: Any, values: list[Any]) -> None:
    _needs(type(target) is dict and len(values) % 2 == 0, "items of something else than a dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        _needs(type(key) in (str, int, float, type(None)), f"a key of type {type(key).__name__}")
        _needs(key not in target, f"the key {key!r:.60} twice")
        target[key] = value


def _build(stack: list[Any]) -> None:
    state = stack.pop()  # what state_dict() notes of its versions
    are_dicts = type(stack[-1]) is dict and type(state) is dict
    _needs(are_dicts, "a state of something else than a dictionary")


def _find_storage(stack: list[Any]) -> None:
    word, kind, key, _, numel = stack.pop()
    storage = STORAGES.get(str(kind).removeprefix("torch ")) if type(kind) is _Global else None
    is_right = word == "storage" and storage and type(key) is str and _is_size(numel)
    _needs(bool(is_right), "something else than a storage of numbers")
    stack.append(Storage(*(storage or ("", 0)), key, numel))


def _call(stack: list[Any]) -> None:
    arguments, called = stack.pop(), stack.pop()
    _needs(type(called) is _Global and type(arguments) is tuple, "a call of something unnamed")
    stack.append(_CALLS[called](*arguments))


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    _needs(not items, "an OrderedDict of items that are given at once")
    return {}


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    is_view = type(storage) is Storage and type(shape) is tuple is type(stride) and _is_size(offset)
    is_view = is_view and len(shape) == len(stride) <= MAX_DEPTH
    is_view = is_view and all(map(_is_size, (*shape, *stride)))
    _needs(is_view, "a tensor of something else than a storage")
    pairs = list(zip(shape, stride, strict=True))
    _needs(all(step > 0 or size <= 1 for size, step in pairs), "a tensor with a stride of 0")
    end = offset + sum((size - 1) * step for size, step in pairs) + 1
    _needs(0 in shape or end <= storage.numel, f"a tensor of shape {shape!r:.60} that its storage lacks")
    reach = 0
    for step, size in sorted((step, size) for size, step in pairs if size > 1):
        _needs(step > reach, f"a tensor of shape {shape!r:.60} that overlaps itself")
        reach += (size - 1) * step
    return StoredTensor(storage, offset, shape, stride)


def _parameter(tensor: Any, *_: Any) -> StoredTensor:
    _needs(type(tensor) is StoredTensor, "a parameter of something else than a tensor")
    return tensor


def _size(values: Any) -> tuple[Any, ...]:
    _needs(type(values) is tuple, "a size of something else than numbers")
    return values


def _device(*named: Any) -> str:
    return ":".join(map(str, named))[:60]


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _needs(is_right: bool, otherwise: str) -> None:  # noqa: FBT001
    if not is_right:
        raise _RefusedError(otherwise)


def _count(declared: Any) -> None:
    """Raise where values are more than a checkpoint has, each counted as often as it occurs."""
    count, left = 1, [(declared, 0)]
    while left:
        value, depth = left.pop()
        is_known = value is None or type(value) in _PLAIN
        _needs(is_known, f"a value of type {type(value).__name__}")
        if type(value) in (dict, list, tuple):
            count += len(value)
            _needs(count <= MAX_VALUES and depth < MAX_DEPTH, "too many values, or too deep ones")
            parts = value.values() if type(value) is dict else value
            left += [(part, depth + 1) for part in parts]


_PLAIN = {bool, int, float, str, dict, list, tuple, StoredTensor}
_SKIPPED = {"PROTO"}
_ARGUMENTS = {"BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_PUSHED: Mapping[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_BUILDERS: Mapping[str, Callable[[list[Any]], None]] = {
    "TUPLE": _make_tuple,
    "TUPLE1": lambda stack: _make_short_tuple(stack, 1),
    "TUPLE2": lambda stack: _make_short_tuple(stack, 2),
    "TUPLE3": lambda stack: _make_short_tuple(stack, 3),
    "APPEND": _append,
    "APPENDS": _extend,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "BUILD": _build,
    "REDUCE": _call,
    "BINPERSID": _find_storage,
}
_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections OrderedDict": _ordered_dict,
    "torch Size": _size,
    "torch device": _device,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
}
ALLOWED_GLOBALS = frozenset(_CALLS) | {f"torch {storage}" for storage in STORAGES}
"""What a checkpoint of tensors needs of a pickle."""
