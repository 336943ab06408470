"""Damaged and hostile files: each is refused in one sentence when it is registered, and nothing in it runs."""

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from batch_assets.errors import BatchAssetsError, UnsafeModel
from batch_assets.models.card import Card
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.formats import safetensors_of
from batch_assets.models.runtimes.pytorch.vetting import vetted_pt2
from batch_assets.models.runtimes.torch_runtime import PT2, TorchRuntime
from batch_assets.models.sandbox import Limits
from batch_assets.models.trial import check_model
from batch_assets_tests.models.runtimes.pytorch.test_formats import IN_THIS_REPOSITORY, Payload, rewritten
from batch_assets_tests.net import seeded
from batch_assets_tests.small import Small, sandbox

pytestmark = pytest.mark.process

PROGRAM = "models/model.json"

BYTES = {
    "dtype": 1,
    "sizes": [{"as_int": 1}],
    "requires_grad": False,
    "device": {"type": "cpu", "index": None},
    "strides": [{"as_int": 1}],
    "storage_offset": {"as_int": 0},
    "layout": 7,
}
"""What a file says of a tensor of one byte."""


class Two(torch.nn.Module):
    """A weight, a constant and a call, so that there is something of each kind to damage."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.tensor([0.5])


@pytest.fixture(scope="module")
def good() -> bytes:
    return export_model(Two(), 3)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()


def edited(model: bytes, entry: str, change: Callable[[Any], None]) -> bytes:
    """A model of which the JSON of one entry was changed."""

    def replace(name: str, data: bytes) -> bytes:
        if not name.endswith(entry):
            return data
        document = json.loads(data)
        change(document)
        return json.dumps(document).encode()

    return rewritten(model, replace)


def refused(small: Small, data: bytes, message: str = "small v7", runtime: TorchRuntime = PT2) -> str:
    with pytest.raises(UnsafeModel, match=message) as caught:
        small.register("v7", data, runtime)
    said = str(caught.value)
    assert small.registry.versions("small") == ["v1"]
    assert said.startswith("small v7 ")
    assert said.endswith(".")
    assert "\n" not in said
    assert "Traceback" not in said
    return said


def nodes(program: Any) -> list[Any]:
    return program["graph_module"]["graph"]["nodes"]  # type: ignore[no-any-return]


class TestForeign:
    """What torch would unpickle, import, call or write into its source."""

    def call(self, target: str) -> Callable[[Any], None]:
        return lambda program: nodes(program)[0].update(target=target)

    @pytest.mark.parametrize(
        "target",
        [
            *(
                "os.system",
                "builtins.exec",
                "torch.serialization.os.system",
                "torch.hub.load",
                "_operator.methodcaller",
                "#mine:op",
            ),
            *("torch.ops.aten.from_file.default", "torch.ops.debugprims.load_tensor.default", "torch.ops.mine.custom.default"),
            *("torch.ops.higher_order.wrap", "torch.ops.aten.add.Tensor; import os"),
        ],
    )
    def test_an_operator_that_is_none_of_torchs(self, small: Small, good: bytes, target: str) -> None:
        assert f"calls {target}" in refused(small, edited(good, PROGRAM, self.call(target)), "may not be loaded")

    def test_a_callable_as_an_argument(self, small: Small, good: bytes, witness: Path) -> None:
        def change(program: Any) -> None:
            nodes(program)[0].update(target="torch.ops.higher_order.cond")
            nodes(program)[0]["inputs"] = [
                {"name": "", "kind": 1, "arg": {"as_operator": "torch.serialization.os.system"}},
                {"name": "", "kind": 1, "arg": {"as_string": f"touch {witness}"}},
            ]

        refused(small, edited(good, PROGRAM, change), "something to call as an argument")

    def test_a_name_that_is_source(self, small: Small, good: bytes, witness: Path) -> None:
        """Torch writes the names of a graph into the Python that it makes of it."""
        evil = f"x=__import__('pathlib').Path('{witness}').touch()"
        renamed = rewritten(good, lambda name, data: data.replace(b'"x"', json.dumps(evil).encode()))
        assert renamed != good
        refused(small, renamed, "holds the name .*, which is none")

    @pytest.mark.parametrize("place", ["forward_arg_names", "in_spec", "parameter_name"])
    def test_names_beside_the_graph(self, small: Small, good: bytes, witness: Path, place: str) -> None:
        evil = f"x=__import__('pathlib').Path('{witness}').touch()"

        def change(program: Any) -> None:
            signature = program["graph_module"]["module_call_graph"][0]["signature"]
            if place == "forward_arg_names":
                signature["forward_arg_names"] = [evil]
            elif place == "in_spec":
                protocol, tree = json.loads(signature["in_spec"])
                tree["children_spec"][1]["context"] = json.dumps([evil])
                signature["in_spec"] = json.dumps([protocol, tree])
            else:
                spec = next(one for one in program["graph_module"]["signature"]["input_specs"] if "parameter" in one)
                spec["parameter"]["parameter_name"] = 'layer.__class__.x"'

        refused(small, edited(good, PROGRAM, change), "may not be loaded")

    def test_a_tree_of_inputs_that_imports_a_module(self, small: Small, good: bytes) -> None:
        context = {"default_factory_module": "antigravity", "default_factory_name": "fly", "dict_context": []}

        def change(program: Any) -> None:
            tree = {"type": "collections.defaultdict", "context": context, "children_spec": []}
            program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps([1, tree])

        refused(small, edited(good, PROGRAM, change))

    @pytest.mark.parametrize("entry", ["opaque_obj_0", "custom_obj_0", "tensor_9.pt"])
    def test_a_constant_that_is_a_pickle_without_saying_so(self, small: Small, good: bytes, witness: Path, entry: str) -> None:
        payload = {"path_name": entry, "is_param": False, "use_pickle": False, "tensor_meta": BYTES}
        evil = edited(good, "model_constants_config.json", lambda document: document["config"].update(evil=payload))
        added = rewritten(evil, lambda _, data: data, {f"archive/data/constants/{entry}": pickle.dumps(Payload(witness))})
        refused(small, added, "may not be loaded")

    def test_weights_of_the_layout_before(self, small: Small, good: bytes, witness: Path) -> None:
        buffer = io.BytesIO()
        torch.save({"layer.weight": Payload(witness)}, buffer)
        refused(small, rewritten(good, lambda _, data: data, {"archive/data/weights/model.pt": buffer.getvalue()}))

    def test_an_archive_within_the_archive(self, small: Small, good: bytes, witness: Path) -> None:
        """Where the directory of an archive is not where its end says, Python looks before the end and torch where it says."""
        payload = pickle.dumps(Payload(witness))
        config = {"config": {"e": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": BYTES}}}
        evil = rewritten(
            good,
            lambda name, data: json.dumps(config).encode() if name.endswith("constants_config.json") else data,
            {"archive/data/constants/opaque_obj_0": payload},
        )
        shown = _with_comment_of_size(good, _directory(evil))
        both = _two_directories(evil, shown)
        assert "archive/data/constants/opaque_obj_0" not in zipfile.ZipFile(io.BytesIO(both)).namelist()
        try:
            small.register("v7", both)  # what Python sees is a good model, and nothing else is given to torch
        except BatchAssetsError as error:
            assert "\n" not in str(error)  # noqa: PT017

    def test_a_number_in_an_expression(self) -> None:
        class Halves(torch.nn.Module):
            def forward(self, features: torch.Tensor) -> torch.Tensor:
                return features.sum(dim=1) * (features.shape[0] * 0.5)

        assert vetted_pt2(export_model(Halves(), 3), "m")

    def test_an_expression_for_ever(self, small: Small, good: bytes) -> None:
        for power in (
            "9**9**9",
            "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
            "Integer(1) << 10**12",
            "2**(10**9)",
            "Float('1e999999999')",
        ):
            evil = json.dumps(power).encode()
            refused(small, rewritten(good, lambda _, data: re.sub(rb'"Symbol[^"]*"', lambda _: evil, data)), "the expression")  # noqa: B023


def _directory(archive: bytes) -> tuple[int, int, int]:
    """Entries, size and place of an archive's directory."""
    end = archive.rindex(b"PK\x05\x06")
    count, size, place = struct.unpack("<HII", archive[end + 10 : end + 20])
    return count, size, place


def _with_comment_of_size(archive: bytes, like: tuple[int, int, int]) -> bytes:
    """An archive whose directory is as large as another one, by a comment on its last entry."""
    source, target = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    missing = like[1] - _directory(archive)[1]
    with zipfile.ZipFile(target, "w") as copy:
        infos = source.infolist()
        for number, info in enumerate(infos):
            made = zipfile.ZipInfo(info.filename)
            made.comment = b" " * missing if number == len(infos) - 1 and missing > 0 else b""
            copy.writestr(made, source.read(info))
    return target.getvalue()


def _two_directories(hidden: bytes, shown: bytes) -> bytes:
    """A file in which torch finds the entries of `hidden` and Python those of `shown`: their directories are of one size."""
    count, size, hidden_place = _directory(hidden)
    shown_size, shown_place = _directory(shown)[1:]
    assert shown_size == size
    start = bytes(size) + shown[:shown_place]
    first = _moved(hidden[hidden_place : hidden_place + size], len(start))
    second = _moved(shown[shown_place : shown_place + size], 0)  # Python adds the size of what it holds for a prefix
    place = len(start) + hidden_place
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, size, place, 0)
    return start + hidden[:hidden_place] + first + second + end


def _moved(directory: bytes, by: int) -> bytes:
    """A directory whose entries lie further behind."""
    moved, at = bytearray(directory), 0
    while at < len(moved):
        (place,) = struct.unpack_from("<I", moved, at + 42)
        struct.pack_into("<I", moved, at + 42, place + by)
        at += 46 + sum(struct.unpack_from("<HHH", moved, at + 28))
    return bytes(moved)


class TestDamaged:
    def test_json_that_is_deep(self, small: Small, good: bytes) -> None:
        deep = b"[" * 200_000 + b"]" * 200_000
        refused(small, rewritten(good, lambda name, data: deep if name.endswith(PROGRAM) else data), "not a .pt2 file")

    def test_a_zip_bomb(self, small: Small, good: bytes) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in zipfile.ZipFile(io.BytesIO(good)).namelist():
                archive.writestr(name, bytes(1 << 27) if name.endswith("weight_0") else b"{}")
        refused(small, buffer.getvalue(), "unpacks to much more than it is")

    @pytest.mark.parametrize(
        "name", ["archive/../../evil", "/etc/evil", "archive\\..\\evil", "archive/data/weights/../../evil"]
    )
    def test_a_name_that_leaves_the_archive(self, small: Small, good: bytes, name: str) -> None:
        refused(small, rewritten(good, lambda _, data: data, {name: b""}))

    @pytest.mark.parametrize(
        "change",
        [
            {"sizes": [{"as_int": 1}, {"as_int": 10**12}]},
            {"sizes": [{"as_int": 10**12}, {"as_int": 3}], "strides": [{"as_int": 0}, {"as_int": 1}]},
            {"strides": [{"as_int": 10**6}, {"as_int": 10**6}]},
            {"strides": [{"as_int": -1}, {"as_int": -1}]},
            {"storage_offset": {"as_int": 10**9}},
            {"storage_offset": {"as_int": -8}},
            {"dtype": 8},
            {"dtype": 99},
            {"sizes": [{"as_int": "three"}]},
            {"sizes": 3},
        ],
    )
    def test_a_tensor_that_is_not_what_its_bytes_are(self, small: Small, good: bytes, change: dict[str, Any]) -> None:
        def edit(document: Any) -> None:
            document["config"]["layer.weight"]["tensor_meta"].update(change)

        data = edited(good, "model_weights_config.json", edit)
        with pytest.raises(BatchAssetsError, match=r"^small v7 .*\.$") as caught:
            small.register("v7", data)
        assert "\n" not in str(caught.value)

    def test_what_asks_for_more_memory_than_there_is(self, small: Small) -> None:
        class Hungry(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x[:, 0] + torch.zeros(30_000_000_000).sum()

        refused(small, export_model(Hungry(), 3), "takes more memory to be opened and tried than there is")

    def test_what_never_ends(self, small: Small) -> None:
        class Endless(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                (found,) = torch.while_loop(lambda y: y.sum() < 1e30, lambda y: (y * 1.0,), (x,))
                return found[:, 0]

        data = export_model(Endless(), 3)
        with pytest.raises(UnsafeModel, match=r"^m takes more than 3 s to be opened and tried"):
            sandbox().call("m", check_model, data, small.card(data), "m", limits=Limits(seconds=3))

    @pytest.mark.parametrize("form", ["pt2", "safetensors"])
    def test_a_file_that_was_cut(self, small: Small, good: bytes, form: str) -> None:
        data, read = {
            "pt2": (good, PT2),
            "safetensors": (save(seeded().state_dict()), safetensors_of(IN_THIS_REPOSITORY)),
        }[form]
        for end in (1, 10, len(data) // 2, len(data) - 1):
            refused(small, data[:end], runtime=read)


def outcomes(files: list[bytes], card: Card) -> list[str]:
    """What is said of each file: a sentence, or that it can be used."""
    found = []
    for data in files:
        try:
            check_model(data, card, "m")
            found.append("usable")
        except BatchAssetsError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("form", ["pt2", "safetensors"])
def test_three_hundred_damages_of_a_file(small: Small, good: bytes, form: str) -> None:
    """Bytes flipped, cut out, doubled and overwritten: a sentence each, or a model, which then has another sha256."""
    data, read = {
        "pt2": (good, PT2),
        "safetensors": (save(seeded().state_dict()), safetensors_of(IN_THIS_REPOSITORY)),
    }[form]
    random = np.random.default_rng(13)
    files = []
    for number in range(100):
        place, length = int(random.integers(len(data))), int(random.integers(1, 64))
        noise = random.integers(0, 256, length, dtype=np.uint8).tobytes()
        flipped = data[:place] + bytes([data[place] ^ (1 << int(random.integers(8)))]) + data[place + 1 :]
        changed = (
            flipped,
            data[:place] + data[place + length :],
            data[:place] + data[place : place + length] * 2 + data[place + length :],
            data[:place] + noise + data[place + length :],
        )
        files.append(changed[number % 4])
    for said in sandbox().call("m", outcomes, files, small.card(data, read)):
        assert said == "usable" or (re.search(r"\bm\b.*\.$", said) and "\n" not in said), said
