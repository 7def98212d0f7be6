"""Write every flag of `vllm serve` as JSON, read from vLLM's own parser and from the limits of its config classes.

Run by the Python of an engine's environment; Overspan itself is not needed there. What ships is

    ENGINE/bin/python dump_flags.py > src/overspan/catalog/engine_flags/vllm-VERSION.json
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

# The module of the server's flags by version of vLLM, newest first.
PARSER_MODULES = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
FLEXIBLE_MODULES = ("vllm.utils.argparse_utils", "vllm.utils")
KINDS = {
    "int": "integer",
    "float": "number",
    "str": "text",
    "loads": "json",
    "parse_dataclass": "json",
    "union_dict_and_str": "json_or_text",
    "human_readable_int": "size",
    "human_readable_int_or_auto": "size_or_auto",
}


def first_module(names: tuple[str, ...]) -> Any:
    """The first of these modules that this version of vLLM has."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"none of {', '.join(names)} in this environment: is vLLM installed?")


def innermost(convert: Callable[..., Any] | None) -> str:
    """The name of the converter inside vLLM's wrappers for optional values."""
    while convert is not None and getattr(convert, "__name__", "") in ("_optional_type", "_parse_type"):
        cells = [cell.cell_contents for cell in convert.__closure__ or ()]
        convert = next(cell for cell in cells if callable(cell))
    return getattr(convert, "__name__", "str")


def kind_of(action: argparse.Action) -> str:
    """What a value of this flag is: see KINDS; `switch` can only be turned on."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return "boolean"
    if action.nargs == 0:
        return "switch"
    return KINDS.get(innermost(action.type if callable(action.type) else None), "text")


def limits() -> dict[str, dict[str, Any]]:
    """Lower and upper limits by field name, from the pydantic fields of vLLM's config classes."""
    import vllm.config
    from pydantic.fields import FieldInfo

    found: dict[str, dict[str, Any]] = {}
    for name in sorted(dir(vllm.config)):
        config = getattr(vllm.config, name)
        if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
            continue
        for field in dataclasses.fields(config):
            if not isinstance(field.default, FieldInfo):
                continue
            bounds = {
                key: getattr(item, attribute)
                for item in field.default.metadata
                for key, attribute in (("minimum", "ge"), ("above", "gt"), ("maximum", "le"), ("below", "lt"))
                if getattr(item, attribute, None) is not None
            }
            if bounds:
                found.setdefault(field.name, {**bounds, "limits_source": f"vllm.config.{name}.{field.name}"})
    return found


def scalar(value: Any) -> Any:
    """A default as JSON can hold it; None where it is not one value."""
    value = value.value if isinstance(value, enum.Enum) else value
    return value if isinstance(value, (bool, int, float, str)) and value != argparse.SUPPRESS else None


def describe(action: argparse.Action, bounds: dict[str, Any]) -> dict[str, Any]:
    """One flag as data."""
    flag: dict[str, Any] = {"options": list(action.option_strings), "kind": kind_of(action)}
    if action.nargs == "+" or isinstance(action, argparse._AppendAction):
        flag["many"] = "append" if isinstance(action, argparse._AppendAction) else "list"
    if action.nargs == "?":
        flag["optional_value"] = True
    if innermost(action.type if callable(action.type) else None) == "<lambda>":
        flag["folds_case"] = True
    if action.choices is not None:
        flag["choices"] = [choice for choice in action.choices if choice is not None]
    if (default := scalar(action.default)) is not None:
        flag["default"] = default
    return {**flag, **bounds}


def assume_device() -> None:
    """Take a machine without a device, a login node for example, for one with a GPU: vLLM's defaults need a device.

    Source: vllm/config/device.py of 0.19, 0.26 and 0.32, "Failed to infer device type".
    """
    from vllm.platforms import current_platform

    if not current_platform.device_type:
        current_platform.device_type = "cuda"


def main() -> None:
    """Print the flags of the vLLM in this environment."""
    import vllm

    assume_device()
    parser = first_module(PARSER_MODULES).make_arg_parser(first_module(FLEXIBLE_MODULES).FlexibleArgumentParser())
    bounds = limits()
    flags = {
        action.dest: describe(action, bounds.get(action.dest, {}))
        for action in parser._actions
        if action.option_strings and action.dest != "help"
    }
    lines = [f"  {json.dumps(name)}: {json.dumps(flags[name])}" for name in sorted(flags)]
    head = f'{{"engine": "vllm", "version": "{vllm.__version__}", "flags": {{'
    sys.stdout.write(head + "\n" + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
