import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from batch_assets.errors import ModelChanged, UnsafeModel
from batch_assets.models.predictor import PredictorLoader
from batch_assets.models.runtimes.pytorch.formats import by_torch_export
from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor
from batch_assets.models.runtimes.pytorch.vetting import vetted_pt2
from batch_assets.models.runtimes.torch_runtime import PT2
from batch_assets.scoring.forward import Predictor
from batch_assets.storage import LocalStorage

FEATURES = np.random.default_rng(0).standard_normal((3, 1_024)).astype(np.float32)


def load(folder: Path, model: bytes) -> Predictor:
    path = folder / f"{hashlib.sha256(model).hexdigest()}.pt2"
    path.write_bytes(model)
    return PredictorLoader(LocalStorage(str(folder)), path.name, hashlib.sha256(model).hexdigest(), PT2)()


def logits(predictor: Predictor, features: np.ndarray, batch_rows: int = 128) -> np.ndarray:
    batches = ((features[:, start : start + batch_rows],) for start in range(0, features.shape[1], batch_rows))
    return np.concatenate(list(predictor.forward(batches)), axis=1)[0]


@pytest.mark.process
@pytest.mark.long
def test_the_same_model_exported_from_two_folders_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for folder in (tmp_path / "here", tmp_path / "quite" / "somewhere" / "else"):
        folder.mkdir(parents=True)
        (folder / "export.py").write_text(
            "import sys, hashlib\n"
            "import torch\n"
            "from batch_assets.models.runtimes.pytorch.export import export_model\n"
            "class Net(torch.nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        torch.manual_seed(1)\n"
            "        self.layer, self.out = torch.nn.Linear(3, 8), torch.nn.Linear(8, 1)\n"
            "    def forward(self, x):\n"
            "        return self.out(torch.relu(self.layer(torch.log1p(x.abs()))))\n"
            "data = export_model(Net(), 3)\n"
            "assert sys.argv[1].encode() not in data and b'export.py' not in data and b'site-packages' not in data\n"
            "print(hashlib.sha256(data).hexdigest())\n"
        )
        done = subprocess.run(
            [sys.executable, "export.py", str(tmp_path)], cwd=folder, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout.strip())
    assert len(digests) == 1


def test_no_path_of_this_machine_is_in_the_file(model_bytes: bytes) -> None:
    contents = [
        zipfile.ZipFile(io.BytesIO(model_bytes)).read(name) for name in zipfile.ZipFile(io.BytesIO(model_bytes)).namelist()
    ]
    for place in (str(Path(__file__).parent), str(Path(torch.__file__).parent), "small.py"):
        assert not any(place.encode() in content for content in contents)


def test_logits_are_those_of_the_model(tmp_path: Path, model_bytes: bytes) -> None:
    expected = FEATURES.T @ np.array([1.0, -0.5, 0.25], dtype=np.float32)
    np.testing.assert_allclose(logits(load(tmp_path, model_bytes), FEATURES), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_rows", [64, 256, 1_024])
def test_a_row_has_the_same_bits_wherever_it_stands(tmp_path: Path, model_bytes: bytes, batch_rows: int) -> None:
    predictor = load(tmp_path, model_bytes)
    order = np.random.default_rng(1).permutation(FEATURES.shape[1])
    moved = np.ascontiguousarray(FEATURES[:, order])
    assert np.array_equal(logits(predictor, FEATURES, batch_rows)[order], logits(predictor, moved, batch_rows))


def test_other_bytes_are_not_loaded(tmp_path: Path, model_bytes: bytes) -> None:
    (tmp_path / "model.pt2").write_bytes(model_bytes)
    with pytest.raises(ModelChanged, match="approved was 0000"):
        PredictorLoader(LocalStorage(str(tmp_path)), "model.pt2", "0" * 64, PT2)()


class TestPickles:
    """A file that would be unpickled is refused before torch sees it, even if its sha256 was approved."""

    def rewritten(self, model: bytes, replace: dict[str, bytes]) -> bytes:
        source, target = zipfile.ZipFile(io.BytesIO(model)), io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            for name in source.namelist():
                data = source.read(name)
                for ending, other in replace.items():
                    data = other if name.endswith(ending) else data
                archive.writestr(name, data)
        return target.getvalue()

    def test_pickled_weights(self, tmp_path: Path, model_bytes: bytes) -> None:
        config = zipfile.ZipFile(io.BytesIO(model_bytes)).read("archive/data/weights/model_weights_config.json")
        pickled = config.replace(b'"use_pickle": false', b'"use_pickle": true')
        assert pickled != config
        with pytest.raises(UnsafeModel, match="pickled"):
            load(tmp_path, self.rewritten(model_bytes, {"model_weights_config.json": pickled}))

    def test_pickled_samples_are_left_out(self, tmp_path: Path, model_bytes: bytes) -> None:
        """torch.export.save keeps example inputs in the file, as a pickle; nobody needs them."""
        program = vetted_pt2(self.rewritten(model_bytes, {"sample_inputs/model.pt": b"\x80\x02."}), "model")
        assert program["data/sample_inputs/model.pt"] == b""
        one, other = (TorchPredictor(by_torch_export(one, "cpu")) for one in (program, vetted_pt2(model_bytes, "model")))
        assert np.array_equal(logits(one, FEATURES), logits(other, FEATURES))

    @pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
    def test_what_is_no_pt2_at_all(self, tmp_path: Path, data: bytes) -> None:
        with pytest.raises(UnsafeModel):
            load(tmp_path, data)
