"""Which arguments of a task must nobody read, and how is a task shown without them?

`@background(redact=("password",))` names parameters. What is shown of a task goes
through here: their values are dots, whether they were given by position or by name.
"""

import functools
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from .limits import SettingError
from .names import failure, meant

logger = logging.getLogger(__name__)

HIDDEN = "••••••"

_ANY_NAME = inspect.Parameter.VAR_KEYWORD
_BY_POSITION = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


def parse(redact: Any) -> tuple[str, ...]:
    """Return the names that a decorator gives; raise SettingError for what is none."""
    names = (
        tuple(redact) if isinstance(redact, list | tuple | set | frozenset) else None
    )
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise SettingError(
            f"redact of @background is {redact!r}: it must be a tuple of names of "
            'parameters, such as ("password",)'
        )
    return names


def check(function: Callable[..., Any], redact: tuple[str, ...]) -> None:
    """Raise SettingError for a name that is no parameter of the function."""
    known = {
        **_parameters(function, follow=False),
        **(followed := _parameters(function, follow=True)),
    }
    if not known or any(one.kind is _ANY_NAME for one in followed.values()):
        return  # it takes any name, or nobody knows
    for name in redact:
        if name not in known:
            near = meant(name, known)
            raise SettingError(
                f"redact of @background has {name!r}, which is no parameter of it. "
                + (f"Did you mean {near}?" if near else f"It has {', '.join(known)}")
            )


def is_redacted(task_name: str, task_params: str) -> bool:
    """Return whether some of a task's arguments are not to be read."""
    if _is_open(task_name):
        return False
    try:
        return any(text == HIDDEN for _, text in _each(task_name, task_params))
    except ValueError:
        return True


def arguments(task_name: str, task_params: str) -> list[tuple[str, str]]:
    """Return each argument's name, or its place, and its value as JSON or dots.

    All of it can be encoded: half a surrogate, as of a file's name, is `\\udce9`.
    All values of a task that no `tasks` module here has are dots: nobody knows which of
    them are secret. What is not of the form that tasks have is one text without a name.
    """
    try:
        return list(_each(task_name, task_params))
    except ValueError:
        return [("", task_params if _is_open(task_name) else HIDDEN)]


def open_names() -> list[str]:
    """Return the names of the tasks all of whose arguments may be read."""
    from .tasks import tasks

    _discover()
    return sorted(name for name, proxy in tasks._tasks.items() if not proxy.redact)


def params_text(task_name: str, task_params: str) -> str:
    """Return the arguments as they are stored, with dots for what is not to be read."""
    if _is_open(task_name):
        return task_params
    try:
        return _json(_shown(task_name, *_parsed(task_params)))
    except ValueError:
        return HIDDEN


def _shown(task_name: str, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    return [
        [
            HIDDEN if hidden else value
            for _, value, hidden in _positional(task_name, args)
        ],
        {
            name: HIDDEN if hidden else value
            for name, value, hidden in _named(task_name, kwargs)
        },
    ]


def _each(task_name: str, task_params: str) -> Iterator[tuple[str, str]]:
    args, kwargs = _parsed(task_params)
    for name, value, hidden in (
        *_positional(task_name, args),
        *_named(task_name, kwargs),
    ):
        yield _encodable(name), HIDDEN if hidden else _json(value)


def _json(value: Any) -> str:
    """Return what a page can show; raise ValueError if it is nested too deeply."""
    try:
        return _encodable(json.dumps(value, sort_keys=True, ensure_ascii=False))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _encodable(text: str) -> str:
    """Return a text in which half a surrogate is written as JSON has it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _positional(task_name: str, args: list[Any]) -> Iterator[tuple[str, Any, bool]]:
    """Yield name or place, value, and whether it is hidden.

    The names are those of the function that is called, a wrapper if there is one: it
    may add arguments. A value that could be any parameter's is hidden if any is.
    """
    proxy = _proxy(task_name)
    redact: tuple[str, ...] = proxy.redact if proxy is not None else ()
    parameters = _parameters(proxy.task_function, follow=False) if proxy else {}
    names = [name for name, one in parameters.items() if one.kind in _BY_POSITION]
    for place, value in enumerate(args):
        known = place < len(names)
        name = names[place] if known else str(place + 1)
        secret = name in redact if known else bool(redact)
        yield name, value, proxy is None or secret


def _named(task_name: str, kwargs: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    proxy = _proxy(task_name)
    redact: tuple[str, ...] = proxy.redact if proxy is not None else ()
    parameters = _parameters(proxy.task_function, follow=False) if proxy else {}
    rest = {name for name, one in parameters.items() if one.kind is _ANY_NAME}
    for name, value in sorted(kwargs.items()):
        secret = name in redact
        secret |= name not in parameters and not rest.isdisjoint(redact)
        yield name, value, proxy is None or secret


def _is_open(task_name: str) -> bool:
    proxy = _proxy(task_name)
    return proxy is not None and not proxy.redact


def _parsed(task_params: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments; raise ValueError for what is not of the right form."""
    try:
        args, kwargs = json.loads(task_params)
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise ValueError("it must be a list and an object")
    return args, kwargs


def _parameters(
    function: Callable[..., Any], *, follow: bool
) -> dict[str, inspect.Parameter]:
    """Return a function's parameters; none if nobody knows them."""
    try:
        signature = inspect.signature(function, follow_wrapped=follow)
    except (TypeError, ValueError):  # as of some built-in functions
        return {}
    return dict(signature.parameters)


def _proxy(task_name: str) -> Any:
    from .tasks import tasks  # it builds on this module

    _discover()
    return tasks.get(task_name)


@functools.cache
def _discover() -> None:
    """Import the project's tasks; what can't be imported hides its arguments."""
    if error := failure():
        text = "Arguments are hidden: a tasks.py could not be imported"
        logger.error(text, exc_info=error)
