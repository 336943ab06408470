"""What every runtime does, whatever computes in it; a test class inherits it and says how a model file is made."""

import hashlib
import io
import pickle
import re
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import TypeAdapter

from batch_assets.errors import MissingExtra, ModelMisfit, UnsafeModel
from batch_assets.models.predictor import PredictorLoader, outputs_of
from batch_assets.models.runtimes.runtime import RUNTIMES, Runtime
from batch_assets.scoring.forward import Predictor
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import sandbox

Values = npt.NDArray[np.float32]

ROWS = 512
FEATURES: Values = np.random.default_rng(0).standard_normal((3, ROWS)).astype(np.float32)


def _archive(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"{}")
    return buffer.getvalue()


OTHERS = {
    "model.pt2": (_archive("m/models/model.json"), r"format: pt2"),
    "model.safetensors": (b"\x02\0\0\0\0\0\0\0{}", r"format: safetensors"),
    "model.onnx": (b"\x08\x0a\x12\x07pytorch\x1a\x052.4.0:\xd8\x02", r"kind: onnx"),
    "model.lightgbm.txt": (b"tree\nversion=v4\nnum_class=1\n", r"kind: lightgbm"),
}
"""The beginning of a file of each runtime of ours, and what its card must say."""


def run(predictor: Predictor, features: Values, batch_rows: int) -> Values:
    """Outputs of shape (values, rows), batch by batch."""
    batches = ((features[:, start : start + batch_rows],) for start in range(0, features.shape[1], batch_rows))
    return np.concatenate(list(predictor.forward(batches)), axis=1)


def opened(data: bytes, runtime: Runtime) -> str:
    """Load a file and run it once; in the process apart."""
    (found,) = runtime.load(data, "m").forward([(FEATURES[:, :64],)])
    return str(found.dtype)


def opened_each(files: list[bytes], runtime: Runtime) -> list[str]:
    """What `opened` gives of each file, or the sentence that it raises."""
    said = []
    for data in files:
        try:
            said.append(opened(data, runtime))
        except (UnsafeModel, ModelMisfit) as error:
            said.append(str(error))
    return said


class RuntimeBehaviour:
    """`runtime` reads what `made` gives: a model of three float32 columns, x, y and z."""

    runtime: Runtime

    @classmethod
    def made(cls) -> bytes:
        """A model file."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> bytes:
        return cls.made()

    @pytest.fixture
    def predictor(self, model: bytes) -> Predictor:
        return self.runtime.load(model, "m")

    @property
    def sizes(self) -> Sequence[int]:
        """Batches in which a row must have the same bits."""
        return (1, 3, 64, 100, ROWS) if self.runtime.any_shape else (64, 128, ROWS)

    def refused(self, data: bytes) -> str:
        """What is said of a file, in one sentence."""
        with pytest.raises(UnsafeModel) as vetted:
            self.runtime.vet(data, "m")
        with pytest.raises(UnsafeModel) as loaded:
            self.runtime.load(data, "m")
        said = str(vetted.value)
        assert str(loaded.value) == said
        self.require_sentence(said)
        return said

    @staticmethod
    def require_sentence(said: str) -> None:
        assert re.search(r"\bm\b.*\.$", said), said
        assert "\n" not in said

    def test_its_kind_leads_to_it(self) -> None:
        assert RUNTIMES.adapter(self.runtime.kind) is type(self.runtime)

    def test_it_is_written_into_a_card_and_read_back(self) -> None:
        adapter: TypeAdapter[Runtime] = TypeAdapter(Annotated[Runtime, RUNTIMES])
        assert adapter.validate_json(adapter.dump_json(self.runtime)) == self.runtime

    @pytest.mark.parametrize("rows", [1, 64, 100, ROWS])
    def test_outputs_have_a_row_for_each_row(self, predictor: Predictor, rows: int) -> None:
        features = FEATURES[:, :rows]
        before = features.copy()
        (found,) = predictor.forward([(features,)])
        assert found.dtype == np.float32
        assert found.shape == (len(found), rows)
        assert np.isfinite(found).all()
        assert np.array_equal(features, before)

    def test_batches_come_back_in_their_order(self, predictor: Predictor) -> None:
        parts = [FEATURES[:, :64], FEATURES[:, 64:192], FEATURES[:, 192:256]]
        found = list(predictor.forward((part,) for part in parts))
        for part, values in zip(parts, found, strict=True):
            (alone,) = predictor.forward([(part,)])
            assert np.array_equal(values, alone)
        assert list(predictor.forward([])) == []

    def test_a_row_has_the_same_bits_in_batches_of_every_size(self, predictor: Predictor) -> None:
        first, *others = (run(predictor, FEATURES, size) for size in self.sizes)
        for other in others:
            assert np.array_equal(first, other)

    def test_a_row_has_the_same_bits_wherever_it_stands(self, predictor: Predictor) -> None:
        order = np.random.default_rng(1).permutation(ROWS)
        expected, moved = run(predictor, FEATURES, 128), np.ascontiguousarray(FEATURES[:, order])
        assert np.array_equal(run(predictor, moved, 128), expected[:, order])
        alone = np.repeat(FEATURES[:, 7:8], 128, axis=1)
        assert np.array_equal(run(predictor, alone, 128), np.repeat(expected[:, 7:8], 128, axis=1))

    def test_a_part_of_a_larger_buffer_is_taken_as_it_lies(self, predictor: Predictor) -> None:
        part = FEATURES[:, 64:192]
        assert not part.flags.c_contiguous
        assert np.array_equal(run(predictor, part, 128), run(predictor, part.copy(), 128))

    def test_threads_may_call_it_at_the_same_time(self, predictor: Predictor) -> None:
        batches = np.random.default_rng(2).standard_normal((200, 3, 128)).astype(np.float32)
        expected = list(predictor.forward((batch,) for batch in batches))
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda batch: next(iter(predictor.forward([(batch,)]))), batches))
        assert np.array_equal(found, expected)

    def test_a_second_reading_gives_the_same(self, model: bytes, predictor: Predictor) -> None:
        (ours,), (theirs,) = (one.forward([(FEATURES,)]) for one in (predictor, self.runtime.reference(model, "m")))
        self.runtime.require_same(ours, theirs, "m")
        with pytest.raises(ModelMisfit) as caught:
            self.runtime.require_same(ours, theirs + np.float32(1), "m")
        self.require_sentence(str(caught.value))

    def test_its_loader_is_sent_to_another_process(self, model: bytes, predictor: Predictor, tmp_path: Path) -> None:
        (tmp_path / self.runtime.model_file).write_bytes(model)
        sha256 = hashlib.sha256(model).hexdigest()
        loader = PredictorLoader(LocalStorage(str(tmp_path)), self.runtime.model_file, sha256, self.runtime)
        assert np.array_equal(run(pickle.loads(pickle.dumps(loader))(), FEATURES, 128), run(predictor, FEATURES, 128))

    def test_the_environment_names_device_precision_and_library(self, model: bytes, predictor: Predictor) -> None:
        environment = predictor.environment
        assert (environment["device"], environment["precision"]) == ("cpu", "float32")
        assert environment[self.runtime.library].startswith(self.runtime.version())
        assert environment == self.runtime.load(model, "m").environment
        assert self.runtime.versioned() == f"{self.runtime.library}-{self.runtime.version()}"
        assert self.runtime.has("cpu")

    def test_it_says_what_it_costs(self, predictor: Predictor) -> None:
        assert predictor.copying() == 0
        assert predictor.peak_memory() > 1 << 20
        assert predictor.out_of_memory(MemoryError())
        assert not predictor.out_of_memory(ValueError("a bad row"))
        assert not predictor.lost()
        assert self.runtime.memory("cpu") is None

    def test_another_width_is_a_sentence(self, model: bytes) -> None:
        for width in (2, 4):
            with pytest.raises(ModelMisfit, match="does not take these features") as caught:
                outputs_of(model, [np.zeros((100, width), dtype=np.float32)], runtime=self.runtime)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "data", [b"", b"hello", b"\0" * 100, b"PK\x05\x06" + bytes(18), pickle.dumps({"a": 1}), b'{"a": 1}', b"\xff" * 64]
    )
    def test_what_is_no_model_is_a_sentence(self, data: bytes) -> None:
        self.refused(data)

    def test_a_file_of_another_runtime_is_told_as_such(self) -> None:
        for file, (data, advice) in OTHERS.items():
            if file != self.runtime.model_file:
                assert re.search(f", not {re.escape(self.runtime.noun)}: .*{advice}", self.refused(data))

    @pytest.mark.process
    def test_a_file_that_was_cut_is_a_sentence(self, model: bytes) -> None:
        for end in (1, len(model) // 4, len(model) * 3 // 4):
            with pytest.raises(UnsafeModel) as caught:
                sandbox().call("m", opened, model[:end], self.runtime)
            self.require_sentence(str(caught.value))

    @pytest.mark.process
    @pytest.mark.parametrize("count", [8, pytest.param(60, marks=pytest.mark.long)])
    def test_damages_of_a_file_are_sentences(self, model: bytes, count: int) -> None:
        """Bytes flipped, cut out, doubled and overwritten: a sentence each, or a model, which then has another sha256."""
        random, files = np.random.default_rng(13), list[bytes]()
        for number in range(count):
            place, length = int(random.integers(len(model))), int(random.integers(1, 64))
            noise = random.integers(0, 256, length, dtype=np.uint8).tobytes()
            flipped = bytes([model[place] ^ (1 << int(random.integers(8)))])
            middle = (flipped + model[place + 1 : place + length], b"", model[place : place + length] * 2, noise)[number % 4]
            files.append(model[:place] + middle + model[place + length :])
        for said in self.said_of(files):
            if said != "float32":
                self.require_sentence(said)

    def said_of(self, files: list[bytes]) -> list[str]:
        """What opening each file gives, a precision or a sentence: in one process, or if one of them ends that, in two."""
        half = len(files) // 2
        try:
            found: list[str] = sandbox().call("m", opened_each, files, self.runtime)
        except UnsafeModel as error:
            return [*self.said_of(files[:half]), *self.said_of(files[half:])] if half else [str(error)]
        return found

    def test_without_its_library_the_extra_is_named(self, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, self.runtime.library, None)
        with pytest.raises(MissingExtra, match=rf"^m needs .* pip install 'batch-assets\[{self.runtime.kind}\]'\.$"):
            self.runtime.load(model, "m")
