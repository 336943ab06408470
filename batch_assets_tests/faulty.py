"""Loaders that wrap a real model so that it fails on purpose: what a model or its machine does once in a thousand nights."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batch_assets.scoring.forward import Logits, Predictor
from batch_assets.scoring.inputs import Array
from batch_assets.scoring.scorer import Load
from batch_assets.scoring.settings import Device, Precision


@dataclass(frozen=True)
class Faulty:
    """Does something to every batch that holds a row whose first feature is `value`, as long as the file `while_there` is
    there.
    """

    load: Load
    fault: str
    value: float = 0.0
    while_there: str = ""

    def __call__(self, device: Device = "cpu", precision: Precision = "float32") -> "FaultyPredictor":
        if self.fault == "kill at load":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "stop at load once" and Path(self.while_there).exists():
            Path(self.while_there).unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        return FaultyPredictor(self.load(device, precision), self)


@dataclass(frozen=True)
class Counted:
    """Writes down each time that the model is loaded."""

    load: Load
    file: str

    def __call__(self, device: Device = "cpu", precision: Precision = "float32") -> Predictor:
        with Path(self.file).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return self.load(device, precision)


class FaultyPredictor(Predictor):
    def __init__(self, predictor: Predictor, faulty: Faulty) -> None:
        self._predictor = predictor
        self._faulty = faulty
        self.calls = 0
        self.raised = 0
        self._lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    @property
    def environment(self) -> dict[str, str]:
        return self._predictor.environment

    def copying(self) -> float:
        return self._predictor.copying()

    def peak_memory(self) -> int:
        return self._predictor.peak_memory()

    def out_of_memory(self, error: Exception) -> bool:
        return self._predictor.out_of_memory(error)

    def lost(self) -> bool:
        return self._lost

    def forward(self, batches: Iterable[tuple[Array, ...]]) -> Iterator[Logits]:
        for batch in batches:
            self.calls += 1
            fault, path = self._faulty.fault, self._faulty.while_there
            if self._lost or (self._hit(batch) and (not path or Path(path).exists())):
                self.raised += 1
                if fault in ("kill", "kill whatever it is"):
                    os.kill(os.getpid(), signal.SIGKILL)
                elif fault == "kill once":
                    Path(path).unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                elif fault == "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                    time.sleep(600)  # the signal may reach this thread a moment after it was sent
                elif fault == "stop once":
                    Path(path).unlink()
                    os.kill(os.getpid(), signal.SIGSTOP)
                    time.sleep(600)
                elif fault == "lose connection once":
                    Path(path).unlink()
                    raise ConnectionResetError("the model server hung up")
                elif fault == "lose connection":
                    raise ConnectionResetError("the model server hung up")
                elif fault == "lose the device":
                    self._lost = True
                    raise RuntimeError("CUDA error: device-side assert triggered")
                elif fault == "slow":
                    time.sleep(0.05)
                else:
                    raise ValueError(fault)
            yield from self._predictor.forward([batch])

    def _hit(self, batch: tuple[Array, ...]) -> bool:
        return self._faulty.fault == "kill whatever it is" or bool(np.any(batch[0][0] == np.float32(self._faulty.value)))
