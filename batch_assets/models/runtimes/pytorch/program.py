"""Reads an exported program without torch.export, whose import alone takes a worker about a second.

A `.pt2` file is a zip of a graph as JSON (torch's `_export/serde/schema.py`) and of raw tensors. Most models are a
straight line of `aten` calls on tensors and plain values; those are read here and run as they stand. A file with anything
else in it is left to torch.export: `read_program` says so by returning None. So the file alone decides how it is read, in every
night and every audit. Registration runs both and compares. `benchmarks/model_reading.py` says what it saves.
"""

import json
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batch_assets.models.runtimes.pytorch.vetting import Archive

if TYPE_CHECKING:
    import torch

_DTYPES = (
    "", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex32", "complex64", "complex128",
    "bool", "bfloat16",
)  # fmt: skip
_MEMORY_FORMATS = ("", "contiguous_format", "channels_last", "channels_last_3d", "preserve_format")
_PLAIN = ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings")
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod")
}
_ATEN = "torch.ops.aten."
_STRIDED = 7
_POSITIONAL = 1


class _Unknown(Exception):
    """Something that only torch.export understands."""


@dataclass(frozen=True)
class _Slot:
    """The place of a value that is computed or given."""

    place: int


@dataclass(frozen=True)
class _Step:
    """One call: what to call with which values, where its results go, and which values nobody needs afterwards."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    results: tuple[int, ...]
    tupled: bool
    frees: tuple[int, ...]


class Program:
    """A straight line of calls; takes the model's inputs and gives a tuple of its one output."""

    def __init__(self, values: list[Any], inputs: list[int], steps: list[_Step], output: int) -> None:
        self._values, self._inputs, self._steps, self._output = values, inputs, steps, output

    def __call__(self, *inputs: "torch.Tensor") -> "tuple[torch.Tensor]":
        """Run it. May be called by several threads."""
        values = self._values.copy()
        for place, tensor in zip(self._inputs, inputs, strict=True):
            values[place] = tensor
        for step in self._steps:
            arguments = [_valued(one, values) for one in step.arguments]
            keywords = {name: _valued(one, values) for name, one in step.keywords.items()} if step.keywords else {}
            result = step.function(*arguments, **keywords)
            if step.tupled:
                for place, each in zip(step.results, result, strict=True):
                    values[place] = each
            elif step.results:
                values[step.results[0]] = result
            del result, arguments, keywords
            for place in step.frees:
                values[place] = None
        return (values[self._output],)


def read_program(archive: Archive, device: str) -> Program | None:
    """The program in a vetted `.pt2` file, or None if it holds something that only torch.export understands."""
    try:
        return _Reader(archive, device).program()
    except (_Unknown, KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None


class _Reader:
    """Turns the JSON of one file into a program."""

    def __init__(self, archive: Archive, device: str) -> None:
        self._archive, self._device = archive, device
        self._places: dict[str, int] = {}

    def program(self) -> Program:
        document = json.loads(self._archive["models/model.json"])
        graph, signature = (document["graph_module"][name] for name in ("graph", "signature"))
        if self._archive["byteorder"].strip() != b"little":
            raise _Unknown
        tensors = self._tensors("weights") | self._tensors("constants")
        constants: dict[int, Any] = {}
        inputs: list[int] = []
        for spec in signature["input_specs"]:
            ((kind, body),) = spec.items()
            if kind == "user_input":
                inputs.append(self._place(body["arg"]["as_tensor"]["name"]))
            elif kind in ("parameter", "buffer", "tensor_constant"):
                constants[self._place(body["arg"]["name"])] = tensors[body[f"{kind}_name"]]
            else:
                raise _Unknown
        calls = [self._call(node) for node in graph["nodes"]]
        (output,) = signature["output_specs"]
        output_place = self._places[output["user_output"]["arg"]["as_tensor"]["name"]]
        values = [constants.get(place) for place in range(len(self._places))]
        return Program(values, inputs, _with_frees(calls, set(constants) | {output_place}), output_place)

    def _call(self, node: dict[str, Any]) -> _Step:
        function = _function(node["target"])
        arguments = tuple(self._argument(one["arg"]) for one in node["inputs"] if one["kind"] == _POSITIONAL)
        keywords = {one["name"]: self._argument(one["arg"]) for one in node["inputs"] if one["kind"] != _POSITIONAL}
        outputs = node["outputs"]
        if len(outputs) == 1 and "as_tensors" in outputs[0]:
            return _Step(function, arguments, keywords, self._results(outputs[0]["as_tensors"]), True, ())
        names = [next(iter(one.values())) for one in outputs]
        if any(kind not in ("as_tensor", "as_sym_int") for one in outputs for kind in one):
            raise _Unknown
        return _Step(function, arguments, keywords, self._results(names), len(outputs) > 1, ())

    def _results(self, names: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return tuple(self._place(one.get("name") or one["as_name"]) for one in names)

    def _argument(self, argument: dict[str, Any]) -> Any:
        import torch

        ((kind, body),) = argument.items()
        if kind == "as_tensor":
            return _Slot(self._places[body["name"]])
        if kind == "as_tensors":
            return [_Slot(self._places[one["name"]]) for one in body]
        if kind == "as_sym_int":
            return _Slot(self._places[body["as_name"]]) if "as_name" in body else body["as_int"]
        if kind == "as_sym_ints":
            return [_Slot(self._places[one["as_name"]]) if "as_name" in one else one["as_int"] for one in body]
        if kind == "as_none":
            return None
        if kind == "as_scalar_type":
            return getattr(torch, _DTYPES[body])
        if kind == "as_memory_format":
            return getattr(torch, _MEMORY_FORMATS[body])
        if kind == "as_layout" and body == _STRIDED:
            return torch.strided
        if kind == "as_device" and body["type"] == "cpu":
            return torch.device(self._device)
        if kind == "as_float":
            return float(body)  # an infinite one is written as text
        if kind == "as_floats":
            return [float(one) for one in body]
        if kind in _PLAIN:
            return body
        raise _Unknown

    def _tensors(self, kind: str) -> dict[str, "torch.Tensor"]:
        import torch

        config = f"data/{kind}/model_{kind}_config.json"
        found = {}
        for name, payload in json.loads(self._archive[config])["config"].items():
            meta = payload["tensor_meta"]
            data = bytearray(self._archive[f"data/{kind}/{payload['path_name']}"])
            dtype = getattr(torch, _DTYPES[meta["dtype"]])
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            sizes, strides = ([one["as_int"] for one in meta[axis]] for axis in ("sizes", "strides"))
            tensor = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
            found[name] = tensor.clone(memory_format=torch.preserve_format).to(self._device)
        return found

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))


def _function(target: str) -> Callable[..., Any]:
    import torch

    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    if not target.startswith(_ATEN):
        raise _Unknown
    name, _, overload = target.removeprefix(_ATEN).partition(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, name), overload)
    return function


def _with_frees(calls: list[_Step], kept: set[int]) -> list[_Step]:
    """Let each value go after its last use, and relu overwrite a linear layer's output that nobody else reads."""
    import torch

    last: dict[int, int] = {}
    for number, call in enumerate(calls):
        for place in (*call.results, *_places((call.arguments, *call.keywords.values()))):
            last[place] = number
    steps: list[_Step] = []
    made_by = {place: call.function for call in calls for place in call.results}
    readers = Counter(place for call in calls for place in _places((call.arguments, *call.keywords.values())))
    for number, call in enumerate(calls):
        function, frees = (
            call.function,
            tuple(sorted(place for place, at in last.items() if at == number and place not in kept)),
        )
        if function is torch.ops.aten.relu.default:
            (before,) = call.arguments
            if (
                before.place in frees
                and readers[before.place] == 1
                and made_by.get(before.place) is torch.ops.aten.linear.default
            ):
                function = torch.ops.aten.relu_.default
        steps.append(_Step(function, call.arguments, call.keywords, call.results, call.tupled, frees))
    return steps


def _places(argument: Any) -> list[int]:
    if isinstance(argument, _Slot):
        return [argument.place]
    if isinstance(argument, list | tuple):
        return [place for one in argument for place in _places(one)]
    return []


def _valued(argument: Any, values: list[Any]) -> Any:
    if type(argument) is _Slot:
        return values[argument.place]
    if type(argument) is list and any(type(one) is _Slot for one in argument):
        return [_valued(one, values) for one in argument]
    return argument
