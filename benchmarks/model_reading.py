"""What reading a torch model costs a worker and what it then scores: each reading in processes of its own, in turns.

    python benchmarks/model_reading.py [--rounds 5] [--rows 4096] [--calls 300]

- `program`: the product's own reading of a `.pt2` file (`models/runtimes/pytorch/program.py`).
- `torch.export`: torch's reading of the same file, what would be left without it.
- `torchscript`: the same network traced and frozen by `torch.jit`, which is not among the formats that are read.

Start is from before `import torch` to the first batch's answer, less what `import torch` alone takes in the same process. Rates
are of one thread on one batch that stays in the cache. Medians of the rounds; ratios are to `torch.export`. Not compared: GPUs,
models with lists, reading the bytes from a storage.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READINGS = ("program", "torch.export", "torchscript")
NETWORKS = {"MLP 16-64-64-1": (16, 64, 64, 1), "MLP 64-256-256-3": (64, 256, 256, 3)}


def main() -> None:
    """Write the models, read each in turns, print a table; or be one reading's process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4_096)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--reading", choices=READINGS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reading:
        print(json.dumps(_read(options.reading, options.file, options.rows, options.calls)))
        return
    print(f"{'network':<18}{'reading':<14}{'start s':>9}{'less':>7}{'rows/s':>13}{': torch.export':>16}")
    with tempfile.TemporaryDirectory() as folder:
        for name, widths in NETWORKS.items():
            files = _written(widths, Path(folder))
            found: dict[str, list[tuple[float, float]]] = {reading: [] for reading in READINGS}
            for _ in range(options.rounds):
                for reading in READINGS:
                    found[reading].append(_measured(reading, files[reading], options))
            start, rate = ({one: statistics.median(pair[n] for pair in found[one]) for one in READINGS} for n in (0, 1))
            for one in READINGS:
                less, ratio = start["torch.export"] - start[one], rate[one] / rate["torch.export"]
                print(f"{name:<18}{one:<14}{start[one]:>9.2f}{less:>7.2f}{rate[one]:>13,.0f}{ratio:>16.3f}")


def _written(widths: tuple[int, ...], folder: Path) -> dict[str, Path]:
    import torch

    from batch_assets.models.runtimes.pytorch.export import export_model

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1]).eval()
    exported, traced = folder / f"{widths}.pt2", folder / f"{widths}.ts"
    exported.write_bytes(export_model(network, widths[0]))
    torch.jit.save(torch.jit.freeze(torch.jit.trace(network, torch.zeros(8, widths[0]))), traced)
    return {"program": exported, "torch.export": exported, "torchscript": traced}


def _measured(reading: str, file: Path, options: argparse.Namespace) -> tuple[float, float]:
    arguments = ["--reading", reading, "--file", str(file), "--rows", str(options.rows), "--calls", str(options.calls)]
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, *arguments], capture_output=True, text=True, check=True)  # noqa: S603
    found = json.loads(done.stdout)
    return found["start"], found["rate"]


def _read(reading: str, file: Path, rows: int, calls: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    started = time.perf_counter()
    import numpy as np

    from batch_assets.models.runtimes.pytorch.formats import by_torch_export, read_model
    from batch_assets.models.runtimes.pytorch.predictor import TorchPredictor
    from batch_assets.models.runtimes.pytorch.vetting import vetted_pt2
    from batch_assets.models.runtimes.torch_runtime import PT2

    data = file.read_bytes()
    if reading == "torchscript":
        script = torch.jit.load(file)
        program = lambda *inputs: (script(*inputs),)  # noqa: E731
    else:
        program = (
            read_model(data, file.name, "cpu", PT2)
            if reading == "program"
            else by_torch_export(vetted_pt2(data, file.name), "cpu")
        )
    predictor = TorchPredictor(program)
    columns = int(file.name.strip("(").partition(",")[0])
    batch = (np.random.default_rng(0).standard_normal((columns, rows), dtype=np.float32),)
    for _ in predictor.forward([batch]):
        start = time.perf_counter() - started
    for _ in predictor.forward([batch] * (calls // 10)):  # warm
        pass
    began = time.perf_counter()
    for _ in predictor.forward([batch] * calls):
        pass
    return {"start": start, "rate": rows * calls / (time.perf_counter() - began)}


if __name__ == "__main__":
    main()
