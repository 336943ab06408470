"""Exported programs: how a model becomes a file, and how a version is loaded and run.

This is the only room of a night that knows torch.
The file is a `.pt2` of torch.export. Nothing in it may be a pickle, and nothing in it may tell of the machine that made it.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from batch_assets.errors import ModelChanged, ModelMisfit, UnsafeModel
from batch_assets.scoring.postprocess import probability_of
from batch_assets.scoring.scorer import Predictor
from batch_assets.storage import Storage

if TYPE_CHECKING:
    import torch

_SOURCE_NOTES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")
"""Node annotations that hold paths and lines of the machine that exported the model."""


def export_model(module: "torch.nn.Module", columns: int) -> bytes:
    """Export a model that maps float32 features of shape (rows, columns) to logits, for any number of rows.

    The bytes depend on the model alone: the same model exported in two folders gives the same file.
    """
    import torch

    rows = torch.export.Dim("rows", min=1)
    example = (torch.zeros(128, columns, dtype=torch.float32),)
    program = torch.export.export(module.eval(), example, dynamic_shapes=({0: rows},))
    for node in program.graph.nodes:
        for note in _SOURCE_NOTES:
            node.meta.pop(note, None)
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


class TorchPredictor(Predictor):
    """A loaded program on the CPU. Every call of the program sees exactly `batch_rows` rows."""

    def __init__(self, program: Any, batch_rows: int) -> None:
        self._program = program
        self._batch_rows = batch_rows

    @property
    @override
    def environment(self) -> dict[str, str]:
        import torch

        return {
            "device": "cpu",
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "torch": str(torch.__version__),
        }

    @override
    def logits(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        import torch

        staged = torch.from_numpy(features)
        logits = torch.empty(features.shape[1], dtype=torch.float32)
        with torch.inference_mode():
            for start in range(0, features.shape[1], self._batch_rows):
                batch = staged[:, start : start + self._batch_rows].t()
                (output,) = self._program(batch)
                logits[start : start + self._batch_rows] = output.reshape(-1)
        return logits.numpy()


@dataclass(frozen=True)
class PredictorLoader:
    """Loads one model file, after its bytes were compared with the sha256 that was approved; picklable."""

    storage: Storage
    path: str
    sha256: str
    batch_rows: int

    def __call__(self) -> TorchPredictor:
        """Read, verify and load.

        Raises:
            ModelChanged: other bytes than were approved.
            UnsafeModel: loading would execute a pickle.
        """
        data = self.storage.read(self.path)
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ModelChanged(f"{self.path} has sha256 {found}, approved was {self.sha256}: the file was changed.")
        return load_program(data, self.path, self.batch_rows)


def load_program(model: bytes, name: str, batch_rows: int) -> TorchPredictor:
    """Load an exported program; `name` is for messages. Raises UnsafeModel."""
    import torch

    _refuse_pickles(model, name)
    program = torch.export.load(io.BytesIO(model)).module(check_guards=False)
    # Plain code takes and gives flat tuples; the exported one walks an argument tree at every call.
    program.graph.set_codegen(torch.fx.graph.CodeGen())
    program.recompile()
    return TorchPredictor(program, batch_rows)


def check_model(model: bytes, columns: int, name: str) -> None:
    """Run one batch through a program, so that a misfit is found before a night is.

    Raises:
        ModelMisfit: it does not take `columns` float32 columns, or does not give one logit a row.
        UnsafeModel: loading it would execute a pickle.
    """
    predictor = load_program(model, name, batch_rows=64)
    try:
        predictor.logits(np.zeros((columns, 128), dtype=np.float32))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelMisfit(f"{name} does not map {columns} float32 columns to one logit a row: {reason}.") from error


def predict_probabilities(model: bytes, features: npt.NDArray[np.float32], batch_rows: int = 1_024) -> npt.NDArray[np.float32]:
    """Probabilities of shape (rows,) for features of shape (rows, columns), computed in the very way in which a night does."""
    rows, columns = features.shape
    staged = np.zeros((columns, -(-rows // batch_rows) * batch_rows), dtype=np.float32)
    staged[:, :rows] = features.T
    return probability_of(load_program(model, "the model", batch_rows).logits(staged)[:rows])


def _refuse_pickles(data: bytes, path: str) -> None:
    """`torch.export.load` unpickles weights, constants and sample inputs that say so; a model from us never does."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
            configs = [name for name in entries if name.endswith("_config.json")]
            pickled = [
                payload
                for name in configs
                for payload in json.loads(archive.read(entries[name]))["config"].values()
                if payload["use_pickle"]
            ]
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnsafeModel(f"{path} is not a .pt2 file that batch-assets can vouch for: {error}.") from error
    samples = [name for name, entry in entries.items() if "sample_inputs" in name and entry.file_size]
    if pickled or samples or "archive_format" not in entries:
        raise UnsafeModel(f"{path} holds pickled objects; export it with batch_assets.models.predictor.export_model.")
