"""Signatures as the home of every range: what an argument may hold is said by its annotation, and checked from there.

`foreground_iou: Annotated[float, Gt(0), Le(1)] = 0.7` is read by people, editors and `checked`, which refuses any other
value when the object is built, from Python as well as from a config. Values are looked at, never converted: 1 is no
true, "1" no number, and a tensor stays the tensor that it was. How two arguments have to relate is said in the body.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import DocInfo, Ge, Gt, Le, Lt, MinLen, doc

Share = Annotated[float, Ge(0), Le(1)]
"""0 and 1 included."""
PositiveShare = Annotated[float, Gt(0), Le(1)]
InnerShare = Annotated[float, Gt(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Side = Annotated[int, Ge(1), Le(20_000)]
"""Of an image as the network sees it, in pixels: 20,000 squared are 5 GB of numbers."""
Seed = Annotated[int, Ge(0), Le(2**31 - 1)]

Text = Annotated[str, MinLen(1), doc("text")]
Texts = Annotated[Text | Annotated[Sequence[Text], MinLen(1)], doc("text or a list such as [a,b]")]

Numbers = Annotated[Sequence[Positive], MinLen(1), doc("a list of positive numbers such as [0.5,1,2]")]
Sides = Annotated[Sequence[Side], MinLen(1), doc("a list of whole numbers up to 20000 such as [320,416]")]
Counts = Annotated[Sequence[Count], MinLen(1), doc("a list of whole numbers such as [3,6,9]")]
Levels = Annotated[
    Numbers | Annotated[Sequence[Numbers], MinLen(1)],
    doc("a list of positive numbers such as [0.5,1,2], or one such list per level"),
]
LevelShapes = Annotated[
    Sequence[Sequence[Positive | Sequence[Positive]]],
    MinLen(1),
    doc("a list of positive numbers such as [[[16, 32], [24, 24]]] (width, height; a list per level)"),
]

AUTO = Literal["auto"]
"""In an annotation's metadata: a config may also say auto, which is decided before the object is built."""

Target = TypeVar("Target", bound=Callable[..., Any])

_DATA = (int, float, str, bool, NoneType, Path)


class ArgumentError(ValueError):
    """An argument that its annotation refuses: its name, its value and what it has to be, in one sentence."""

    def __init__(self, name: str, value: Any, wanted: str) -> None:
        super().__init__(f"{name}={shown(value)} is not possible: it must be {wanted}")
        self.name = name


class Argument(NamedTuple):
    """What one argument may hold.

    accepts: whether a value is allowed; wanted: the same in words.
    """

    accepts: Callable[[Any], bool]
    wanted: str


def checked(target: Target) -> Target:
    """Decorates a class or a function: its arguments are checked against their annotations at every call.

    Raises, when called:
        ArgumentError: for the first argument that its annotation refuses.
    """
    if not isinstance(target, type):
        return _checking(target)
    cls: Any = target
    cls.__init__ = _checking(cls.__init__)
    return cls


def checks_itself(target: Callable[..., Any]) -> bool:
    """Whether a class or function is `checked`, so that nobody has to look at its arguments before a call."""
    function: Any = target.__init__ if isinstance(target, type) else target
    return getattr(function, "checks_itself", False)


def _checking(function: Any) -> Any:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # whose own message names the class
        check_arguments(call, given)
        return function(*args, **kwargs)

    call.checks_itself = True  # pyright: ignore[reportAttributeAccessIssue]
    return call


def check_arguments(target: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise ArgumentError for the first of the given arguments that the annotations of a class or function refuse.

    Arguments that are no data (modules, tensors, callables) are left to their own constructors.
    """
    rules = arguments_of(target)
    for name, value in given.items():
        part = isinstance(value, Mapping) and "_target_" in value  # still a config: checked where it is built
        if name in rules and not part and not rules[name].accepts(_plain(value)):
            raise ArgumentError(name, value, rules[name].wanted)


def _plain(value: Any) -> Any:
    """The value with each sequence in it as a list: pydantic does not know OmegaConf's for one."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | tuple):
        return [_plain(item) for item in value]
    return value


@functools.cache
def arguments_of(target: Callable[..., Any]) -> dict[str, Argument]:
    """By name, what those arguments of a class or function may hold whose annotation is of data."""
    function: Any = target.__init__ if isinstance(target, type) else target
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # of a class from outside, whose names are there for type checkers only
        return {}
    hints.pop("return", None)
    return {name: argument(hint) for name, hint in hints.items() if _is_data(hint)}


@functools.cache
def argument(annotation: Any) -> Argument:
    """What a value of this annotation may be; pydantic is imported with the first one that is looked at."""

    @functools.cache
    def adapter() -> Any:
        from pydantic import ConfigDict, TypeAdapter

        # allow_inf_nan: no setting of this project means infinity, and NaN passes every comparison by failing it.
        config = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
        return TypeAdapter(_strict(annotation), config=config)

    def accepts(value: Any) -> bool:
        from pydantic import ValidationError

        try:
            adapter().validate_python(value)
        except ValidationError:
            return False
        return True

    return Argument(accepts, in_words(annotation))


def holds_text(annotation: Any, in_list: bool = False) -> bool:
    """Whether a value may be a free text or a path (a word out of a few is none); `in_list`: several of them."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return False
    if isinstance(origin, type) and issubclass(origin, Sequence | Mapping):
        return in_list and issubclass(origin, Sequence) and any(map(holds_text, args))
    if annotation in (str, Path):
        return not in_list
    return any(holds_text(part, in_list) for part in args)


def is_text(annotation: Any) -> bool:
    """Whether a value can be nothing but a free text, a path, or a list of such: 5 is then the text "5"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_text(args[0])
    if origin in (Union, UnionType) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        kinds = [part for part in args if part is not NoneType]
        return bool(kinds) and all(map(is_text, kinds))
    return annotation in (str, Path)


def in_words(annotation: Any) -> str:
    """An annotation as a person reads it: "a number above 0 and up to 1 or null"."""
    origin, args = get_origin(annotation), get_args(annotation)
    if _may_be_auto(annotation):
        return in_words(_without_auto(annotation)) + " or auto"
    if origin is Annotated:
        said = [part.documentation for part in annotation.__metadata__ if isinstance(part, DocInfo)]
        return said[0] if said else in_words(args[0]) + _span(annotation.__metadata__)
    if origin in (Union, UnionType):
        parts = [in_words(part) for part in args if part is not NoneType]
        words = [part.removeprefix("one of ") if len(args) > 1 and "," not in part else part for part in parts]
        if len(parts) == 1 and parts[0].startswith("one of "):
            words = [parts[0].replace("one of ", "one of null, ", 1)] if NoneType in args else words
            return words[0]
        return " or ".join(words + ["null"] * (NoneType in args))
    if origin is Literal:
        return "one of " + ", ".join(map(shown, args))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        inner = [part for part in args if part is not Ellipsis]
        return "a list" + (f" with each {in_words(inner[0])}" if len(set(inner)) == 1 else "")
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


def shown(value: Any) -> str:
    """A value as a person writes it in a config."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(shown(item) for item in value) + "]"
    return str(value)


def _may_be_auto(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated and AUTO in annotation.__metadata__


def _without_auto(annotation: Any) -> Any:
    kept = [part for part in annotation.__metadata__ if part != AUTO]
    kind = get_args(annotation)[0]
    return Annotated[(kind, *kept)] if kept else kind


def _span(metadata: Sequence[Any]) -> str:
    low = next((part for part in metadata if isinstance(part, Ge | Gt)), None)
    high = next((part for part in metadata if isinstance(part, Le | Lt)), None)
    below = "" if high is None else f"below {_bound(high)}" if isinstance(high, Lt) else f"up to {_bound(high)}"
    if low is None:
        return f" {below}" if below else ""
    if isinstance(low, Gt):
        return f" above {_bound(low)}" + (f" and {below}" if below else "")
    if not below:
        return f" of at least {_bound(low)}"
    return f" from {_bound(low)} to {_bound(high)}" if isinstance(high, Le) else f" from {_bound(low)} and {below}"


def _bound(limit: Any) -> str:
    value = next(iter(vars(limit).values())) if hasattr(limit, "__dict__") else getattr(limit, limit.__slots__[0])
    return f"{value:g}" if value < 10**6 else str(value)


def _is_data(annotation: Any) -> bool:
    """Whether a config can hold such a value: numbers, texts, truth values, null, and lists and tables of them."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return True
    if origin is Literal:
        return True
    if origin in (Union, UnionType) or (isinstance(origin, type) and issubclass(origin, Sequence | Mapping)):
        return all(_is_data(part) for part in args if part is not Ellipsis)
    return annotation in _DATA


def _strict(annotation: Any) -> Any:
    """What pydantic is asked: the annotation, but for texts, which YAML reads as numbers where they look like some."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is str or annotation is Path:
        return str | int | float | Path
    if _may_be_auto(annotation):
        return _strict(_without_auto(annotation)) | AUTO
    if origin is Annotated and args[0] is str:
        return annotation | int | float | Path
    if origin is Annotated:
        return Annotated[(_strict(args[0]), *annotation.__metadata__)]
    if origin in (Union, UnionType):
        return Union[tuple(_strict(part) for part in args)]  # noqa: UP007
    if origin is tuple:  # a list in YAML
        from pydantic import Strict

        return Annotated[annotation, Strict(False)]
    if isinstance(origin, type) and issubclass(origin, Sequence):
        kind: Any = origin
        return kind[tuple(_strict(part) for part in args)]
    return annotation
