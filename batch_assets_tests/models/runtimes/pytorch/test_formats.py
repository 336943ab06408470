import hashlib
import io
import json
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save

from batch_assets.errors import ModelChanged, ModelMisfit, UnsafeModel
from batch_assets.models.card import Card
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.models.runtimes.pytorch.formats import safetensors_of
from batch_assets.models.runtimes.torch_runtime import PT2, TorchRuntime
from batch_assets_tests.models.runtimes.pytorch.test_program import Convolved
from batch_assets_tests.net import Net, seeded
from batch_assets_tests.others import Keeping
from batch_assets_tests.small import Small, Working, rows

IN_THIS_REPOSITORY = "batch_assets_tests.net:Net"


class TestOneNet:
    def scores(self, small: Small) -> list[object]:
        working = Working(small)
        return [
            pq.read_table(working.path(number), columns=["user", "probability"]).to_pydict() for number in working.score_all()
        ]

    def test_two_formats_give_the_same_scores_bit_for_bit(self, make_small: Callable[..., Small]) -> None:
        net = seeded()
        small = make_small(rows(1_000))
        small.register("v2", export_model(net, 3))
        expected = self.scores(small)
        small.register("v3", save(net.state_dict()), safetensors_of(IN_THIS_REPOSITORY))
        assert self.scores(small) == expected
        assert len(expected) == 4

    def test_two_formats_give_the_same_bits_where_kernels_depend_on_gradients(self) -> None:
        features = np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32)
        files = (
            (export_model(Convolved(), 6), PT2),
            (save(Convolved().state_dict()), safetensors_of(f"{Convolved.__module__}:Convolved")),
        )
        one, *others = [next(iter(runtime.load(data, "model").forward([(features,)]))) for data, runtime in files]
        for other in others:
            np.testing.assert_array_equal(one, other)

    def test_threads_do_not_share_what_a_network_keeps_while_it_runs(self) -> None:
        batches = np.random.default_rng(0).standard_normal((2_000, 3, 512)).astype(np.float32)
        program = safetensors_of(f"{Keeping.__module__}:Keeping").load(save(Keeping().state_dict()), "model")
        expected = list(program.forward([(batch,) for batch in batches]))
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda batch: next(program.forward([(batch,)])), batches)
        np.testing.assert_array_equal(list(found), expected)

    def test_a_version_tells_its_file(self, small: Small) -> None:
        model = small.register("v2", save(seeded().state_dict()), safetensors_of(IN_THIS_REPOSITORY))
        assert model.path == "models/small/v2/model.safetensors"
        assert small.registry.version("small", "v2").digest == model.digest


class TestCard:
    def test_the_card_of_a_pt2_says_nothing_of_a_module(self, small: Small) -> None:
        written = small.storage.read("models/small/v1/card.json")
        assert json.loads(written)["runtime"] == {"kind": "torch", "format": "pt2"}
        assert b'"module' not in written
        assert Card.model_validate_json(written).runtime == PT2

    @pytest.mark.parametrize(
        "said",
        [
            {"format": "pickle"},
            {"format": "safetensors"},
            {"format": "safetensors", "module": "a.b:c"},
            {"module": "a.b:c", "module_sha256": "0"},
            *(
                {"format": "safetensors", "module_sha256": "0", "module": module}
                for module in ("os", "os.system", "a b:c", "../x:y", ".a:b", "a:b.c", "a:b()", "a-b:c", "a:b\n", "")
            ),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, small: Small, said: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            Card.model_validate({**small.model.card.model_dump(), "runtime": {"kind": "torch", **said}})


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def rewritten(
    model: bytes, replace: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None, without: str = "-"
) -> bytes:
    source, target = zipfile.ZipFile(io.BytesIO(model)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            if not name.endswith(without):
                archive.writestr(name, replace(name, source.read(name)))
        for name, data in (extra or {}).items():
            archive.writestr(name, data)
    return target.getvalue()


class TestPickles:
    """Whatever format a file claims, a pickle in it is refused and does not run."""

    @pytest.fixture
    def witness(self, tmp_path: Path) -> Iterator[Path]:
        path = tmp_path / "it-ran"
        yield path
        assert not path.exists()

    @pytest.fixture(params=["pt2", "safetensors"])
    def runtime(self, request: pytest.FixtureRequest) -> TorchRuntime:
        return {"pt2": PT2, "safetensors": safetensors_of(IN_THIS_REPOSITORY)}[request.param]

    def test_the_payload_would_run(self, tmp_path: Path) -> None:
        pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
        assert (tmp_path / "ran").exists()

    def test_a_bare_pickle(self, witness: Path, runtime: TorchRuntime) -> None:
        with pytest.raises(UnsafeModel):
            runtime.load(pickle.dumps(Payload(witness)), "model")

    def test_what_torch_saves(self, witness: Path, runtime: TorchRuntime) -> None:
        buffer = io.BytesIO()
        torch.save({"weights": Payload(witness)}, buffer)
        with pytest.raises(UnsafeModel):
            runtime.load(buffer.getvalue(), "model")

    @pytest.mark.parametrize("code", ["__import__('pathlib').Path({!r}).touch()", "(lambda: 0)()", "Symbol('a b').x", "[0][0]"])
    def test_an_expression_that_is_no_arithmetic(self, witness: Path, small: Small, code: str) -> None:
        """torch has sympy evaluate the sizes of an exported program as Python."""
        program = small.storage.read(small.model.path)
        evil = json.dumps(code.format(str(witness))).encode()
        bad = rewritten(program, lambda name, data: re.sub(rb'"Symbol[^"]*"', lambda _: evil, data) if "json" in name else data)
        with pytest.raises(UnsafeModel, match="holds the expression"):
            PT2.load(bad, "model")

    def test_an_older_layout_beside_ours(self, witness: Path, small: Small) -> None:
        """Without `archive_version` torch takes the older one, whose tensors are pickles."""
        payload = pickle.dumps(Payload(witness))
        extra = {"version": b"8.1", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": payload}
        bad = rewritten(small.storage.read(small.model.path), lambda _, data: data, extra, without="archive_version")
        with pytest.raises(UnsafeModel):
            PT2.load(bad, "model")

    @pytest.mark.parametrize("name", ["archive/data/aotinductor/model.so", "archive/extra.pt", "archive/models/other.json"])
    def test_an_entry_of_another_kind(self, small: Small, name: str) -> None:
        bad = rewritten(small.storage.read(small.model.path), lambda _, data: data, {name: b""})
        with pytest.raises(UnsafeModel, match="may not be loaded"):
            PT2.load(bad, "model")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_an_entry_twice_or_in_a_second_folder(self, small: Small) -> None:
        """What was looked at would not be what torch reads."""
        program = small.storage.read(small.model.path)
        for name in ("archive/archive_format", "zz/archive_format"):
            with pytest.raises(UnsafeModel, match="several folders, or an entry twice"):
                PT2.load(rewritten(program, lambda _, data: data, {name: b"pt2"}), "model")

    @pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
    def test_no_model_at_all(self, runtime: TorchRuntime, data: bytes) -> None:
        with pytest.raises(UnsafeModel):
            runtime.load(data, "model")


class TestModules:
    SOURCE = "import torch\ndef make():\n    return torch.nn.Linear(3, 1)\n"

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A folder from which modules can be imported."""
        before = set(sys.modules)
        monkeypatch.syspath_prepend(str(tmp_path))
        yield tmp_path
        for name in set(sys.modules) - before:
            del sys.modules[name]

    def test_another_source_than_the_approved_one_is_refused(self, place: Path, small: Small) -> None:
        (place / "mine_a.py").write_text(self.SOURCE)
        runtime = safetensors_of("mine_a:make")
        model = small.register("v2", save(torch.nn.Linear(3, 1).state_dict()), runtime)
        (place / "mine_a.py").write_text(self.SOURCE.replace("Linear(3, 1)", "Linear(3, 1).neg()"))
        changed = hashlib.sha256((place / "mine_a.py").read_bytes()).hexdigest()
        data = small.storage.read(model.path)
        with pytest.raises(ModelChanged, match=f"small v2.*mine_a:make.*{runtime.module_sha256}.*{changed}"):
            model.card.runtime.load(data, "small v2")

    def test_a_source_that_is_not_approved_is_not_imported(self, place: Path) -> None:
        (place / "mine_b.py").write_text("open('it-ran', 'w')")
        runtime = TorchRuntime(format="safetensors", module="mine_b:make", module_sha256="0" * 64)
        with pytest.raises(ModelChanged):
            runtime.load(save({"a": torch.zeros(1)}), "model")
        assert "mine_b" not in sys.modules

    @pytest.mark.parametrize(
        ("factory", "message"),
        [
            ("nowhere_at_all:make", "not installed here"),
            ("nowhere.at.all:make", "not installed here"),
            ("sys:exit", "not installed here"),
            ("mine_c:missing", "no such callable"),
            ("mine_c:torch", "no such callable"),
            ("mine_c:Linear", "no such callable"),
            ("mine_c:needs", "without arguments"),
            ("mine_c:number", "gives int, not a torch.nn.Module"),
            ("mine_c:wide", "weights of model are not those"),
        ],
    )
    def test_what_does_not_make_the_network_is_a_sentence(self, place: Path, factory: str, message: str) -> None:
        (place / "mine_c.py").write_text(
            "import torch\nfrom torch.nn import Linear\n"
            "def needs(width): return Linear(width, 1)\ndef number(): return 1\ndef wide(): return Linear(4, 1)\n"
        )
        with pytest.raises(ModelMisfit, match=message):
            safetensors_of(factory).load(save(torch.nn.Linear(3, 1).state_dict()), "model")

    def test_weights_must_be_all_of_them_and_no_others(self) -> None:
        weights = Net().state_dict()
        for wrong in ({**weights, "other": torch.zeros(1)}, {"first.weight": weights["first.weight"]}):
            with pytest.raises(ModelMisfit, match="weights of model are not those"):
                safetensors_of(IN_THIS_REPOSITORY).load(save(wrong), "model")


class Writing(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mul_(2).sum(dim=1) * self.scale


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return features.sum(dim=1) + self.seen


class Drawn(torch.nn.Module):
    """What it computes with is not among its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("noise", torch.rand(1), persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.sum(dim=1) * self.scale + self.noise


def four() -> torch.nn.Module:
    return torch.nn.Linear(4, 1)


def two() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


MISFITS = [
    (Writing, "writes into its inputs"),
    (Counting, "other values the second"),
    (four, "does not map 3 columns"),
    (two, "does not map 3 columns"),
]


class TestMisfits:
    def refused(self, small: Small, data: bytes, runtime: TorchRuntime, message: str) -> None:
        with pytest.raises(ModelMisfit, match=message):
            small.register("v8", data, runtime)
        assert small.registry.versions("small") == ["v1"]

    @pytest.mark.parametrize(("make", "message"), [*MISFITS, (Drawn, "loaded again")])
    def test_weights_and_a_module(self, small: Small, make: Callable[[], torch.nn.Module], message: str) -> None:
        self.refused(small, save(make().state_dict()), safetensors_of(f"{__name__}:{make.__name__}"), message)
