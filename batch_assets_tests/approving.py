"""Somebody who approves versions, in a process of its own, which imports nothing else."""

from typing import Any

from batch_assets.errors import LostRace
from batch_assets.models.registry import ModelSettings, Registry
from batch_assets.storage import open_storage


def approve_some(root: str, which: int, times: int, answers: Any) -> None:
    """Approve v1 and v2 by turns; put the numbers of the approvals, and what is said where another one was first."""
    registry = Registry(open_storage(root))
    won, lost = [], []
    for n in range(times):
        try:
            version = f"v{1 + (which + n) % 2}"
            won.append(registry.approve("small", "batch", version, why=f"attempt {n}", by=f"process {which}").number)
        except LostRace as error:
            lost.append(str(error))
        registry.resolve(ModelSettings(name="small"))
    answers.put((won, lost))
