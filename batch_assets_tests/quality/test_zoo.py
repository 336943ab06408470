"""A zoo of bad nights, each made from CDNOW's real features: every one is stopped at its gate, with its cause named.

A week of good nights is live; then comes 1998-06-30, otherwise than it should be. The same night untouched is published.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from batch_assets.config import FeatureSettings, PipelineConfig
from batch_assets.demo import train as training
from batch_assets.engines.local_engine import LocalEngine
from batch_assets.errors import BatchAssetsError, NotPublishable
from batch_assets.features.contract import FeatureContract
from batch_assets.models.registry import Registry
from batch_assets.models.runtimes.pytorch.export import export_model
from batch_assets.nightly.freeze import freeze
from batch_assets.nightly.judge import judge
from batch_assets.nightly.judge_features import judge_features
from batch_assets.nightly.night import Night
from batch_assets.nightly.publish import publish, published_matches
from batch_assets.nightly.score import score
from batch_assets.orchestration.catalog import pipeline
from batch_assets.serving.live import current_log
from batch_assets.sources.duckdb_source import DuckdbSource
from batch_assets.storage import LocalStorage
from batch_assets_tests.small import Quiet

WEEK = [f"1998-06-{day}" for day in range(23, 30)]
NIGHT = "1998-06-30"
NAME = training.PIPELINE

Change = Callable[[pa.Table], pa.Table]


@dataclass
class World:
    """A storage root with a good week, and the night's features as its source gives them."""

    storage: LocalStorage
    config: PipelineConfig
    source: Path

    @property
    def registry(self) -> Registry:
        return Registry(self.storage)

    def night(self, engine: LocalEngine | None = None) -> None:
        """All of the night. Raises what a gate raises; a verdict that blocks is raised as publishing would."""
        progress = Quiet()
        frozen = freeze(self.config, self.storage, NIGHT, progress)
        verdict = judge_features(self.config, self.storage, frozen, NIGHT)
        if verdict.blocking:
            raise NotPublishable("; ".join(f"{one.name}: {one.message}" for one in verdict.blocking))
        model = self.registry.resolve(self.config.model)
        score(Night.open(self.config, self.storage, NIGHT, model), engine or LocalEngine(1), progress)
        judge(Night.open(self.config, self.storage, NIGHT, model))
        publish(Night.open(self.config, self.storage, NIGHT, model), progress)

    def scored(self) -> Path:
        """The night up to its verdict; returns the folder of the run."""
        progress, model = Quiet(), self.registry.resolve(self.config.model)
        judge_features(self.config, self.storage, freeze(self.config, self.storage, NIGHT, progress), NIGHT)
        score(Night.open(self.config, self.storage, NIGHT, model), LocalEngine(1), progress)
        judge(Night.open(self.config, self.storage, NIGHT, model))
        return self.storage.local_path(Night.open(self.config, self.storage, NIGHT, model).folder)

    def approve(self, module: torch.nn.Module) -> None:
        """Another version is approved, whose approver confirmed its outputs and was told nothing of its scores."""
        before = self.registry.resolve(self.config.model)
        model = export_model(module, len(self.config.features.contract.columns))
        head = before.card.head.model_copy(update={"confirmed": True})
        card = before.card.model_copy(update={"model_sha256": _sha256(model), "head": head})
        self.registry.register(before.name, "v2", card, model)
        self.registry.approve(before.name, "batch", "v2", why="test", by="the test")


@pytest.fixture(scope="session")
def good_week(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with seven published days, and the real features of every day that is used here."""
    root = tmp_path_factory.mktemp("zoo") / "root"
    shutil.copytree(trained_root, root)
    config, storage, progress = pipeline(NAME), LocalStorage(str(root)), Quiet()
    model = Registry(storage).resolve(config.model)
    for day in WEEK:
        freeze(config, storage, day, progress)
        score(Night.open(config, storage, day, model), LocalEngine(1), progress)
        judge(Night.open(config, storage, day, model))
        publish(Night.open(config, storage, day, model), progress)
    for day in (NIGHT, "1998-05-31", *WEEK):
        shelf = LocalStorage(str(root.parent / "shelf"))
        frozen = freeze(config, shelf, day, progress)
        shutil.copy(shelf.local_path(frozen.folder) / "part-00000.parquet", root.parent / f"{day}.parquet")
    return root


@pytest.fixture
def world(good_week: Path, tmp_path: Path) -> World:
    shutil.copytree(good_week, tmp_path / "root")
    config = pipeline(NAME)
    (tmp_path / "query.sql").write_text("SELECT * FROM features WHERE $partition IS NOT NULL")
    source = DuckdbSource(query=str(tmp_path / "query.sql"), tables={"features": str(tmp_path / "features.parquet")})
    features = FeatureSettings(source=source, contract=config.features.contract)
    shutil.copy(good_week.parent / f"{NIGHT}.parquet", tmp_path / "features.parquet")
    return World(
        LocalStorage(str(tmp_path / "root")), config.model_copy(update={"features": features}), tmp_path / "features.parquet"
    )


def stopped(world: World, *gates: str, engine: LocalEngine | None = None) -> str:
    """The night is stopped, for the reasons that are given as patterns; the day before stays live. Returns the reasons."""
    with pytest.raises(BatchAssetsError) as raised:
        world.night(engine)
    for gate in gates:
        assert re.search(gate, str(raised.value)), raised.value
    live = current_log(world.storage, NAME).latest()
    assert live is not None
    assert live.body.partition == WEEK[-1]
    return str(raised.value)


def test_the_night_untouched_is_published(world: World) -> None:
    world.night()
    live = current_log(world.storage, NAME).latest()
    assert live is not None
    assert live.body.partition == NIGHT


def column(name: str, change: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating]]) -> Change:
    """One column is otherwise."""

    def apply(table: pa.Table) -> pa.Table:
        values = change(table[name].to_numpy().copy()).astype(np.float32)
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values))

    return apply


def some(share: float, value: float) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.floating]]:
    """A share of the rows has one value."""

    def apply(values: npt.NDArray[np.float32]) -> npt.NDArray[np.floating]:
        values[np.random.default_rng(1).random(len(values)) < share] = value
        return values

    return apply


def renamed(**names: str) -> Change:
    return lambda table: table.rename_columns([names.get(name, name) for name in table.column_names])


def cast(name: str, dtype: pa.DataType) -> Change:
    def apply(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index(name), name, table[name].cast(dtype))

    return apply


def swapped(one: str, other: str) -> Change:
    """Two columns hold each other's values."""

    def apply(table: pa.Table) -> pa.Table:
        names = [{one: other, other: one}.get(name, name) for name in table.column_names]
        return table.select(names).rename_columns(table.column_names)

    return apply


def nulls(name: str, share: float) -> Change:
    def apply(table: pa.Table) -> pa.Table:
        gone = pa.array(np.random.default_rng(2).random(len(table)) < share)
        return table.set_column(
            table.schema.get_field_index(name), name, pc.if_else(gone, pa.scalar(None, pa.float32()), table[name])
        )

    return apply


def more_users(table: pa.Table) -> pa.Table:
    """Every user once more, under another id."""
    ids = pc.add(table["customer_id"], pa.scalar(100_000, pa.int32()))
    return pa.concat_tables([table, table.set_column(0, "customer_id", ids)])


def heavy_users_only(table: pa.Table) -> pa.Table:
    """Each user has the features of somebody who orders often."""
    heavy = np.flatnonzero(table["orders"].to_numpy() > 1)
    places = np.random.default_rng(3).choice(heavy, len(table))
    return table.take(pa.array(places)).set_column(0, "customer_id", table["customer_id"])


def doubled_key(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(7, 1)])


def null_key(table: pa.Table) -> pa.Table:
    ids = table["customer_id"].to_pylist()
    return table.set_column(0, "customer_id", pa.array([None, *ids[1:]], pa.int32()))


FEATURES: dict[str, tuple[Change, str]] = {
    "no rows": (
        lambda table: table.slice(0, 0),
        r"expectations: there are no rows, at least 1 is wanted.*changes: 0 rows are 100% fewer",
    ),
    "a fifth of the rows lost": (
        lambda table: table.slice(0, int(len(table) * 0.8)),
        r"changes: 18,856 rows are 20% fewer than the usual 23,570",
    ),
    "a ninth lost": (lambda table: table.slice(0, len(table) * 8 // 9), r"changes: 20,951 rows are 11% fewer"),
    "one partition of many read": (lambda table: table.slice(0, 737), r"changes: 737 rows are 97% fewer"),
    "one file twice": (lambda table: pa.concat_tables([table, table]), r"customer_id.*doubled|doubled.*customer_id|twice"),
    "one key twice": (doubled_key, r"customer_id.*doubled|doubled.*customer_id|twice"),
    "a key that is null": (null_key, r"null"),
    "every user under a second id": (more_users, r"changes: 47,140 rows are 2.00 times the usual"),
    "only those who order often": (
        lambda table: table.filter(pc.greater(table["orders"], 1)),
        r"changes: [0-9,]+ rows are [0-9]+% fewer",
    ),
    "everybody like those who order often": (heavy_users_only, r"feature_drift: .*orders is PSI"),
    "a column renamed": (renamed(amount="amount_usd"), r"contract: amount seems to be renamed to amount_usd"),
    "a column dropped": (lambda table: table.drop_columns(["cds"]), r"contract: cds is missing"),
    "a column added": (
        lambda table: table.append_column("score", table["amount"]),
        r"contract: score is not in the contract",
    ),
    "columns in another order": (
        lambda table: table.select(["customer_id", *reversed(table.column_names[1:])]),
        r"contract: .*order",
    ),
    "a type widened": (cast("amount", pa.float64()), r"contract: amount is float64 instead of float32"),
    "numbers as text": (cast("orders", pa.string()), r"contract: orders is string instead of float32"),
    "the key's type changed": (cast("customer_id", pa.int64()), r"contract: customer_id is int64 instead of int32"),
    "first and last day swapped": (
        swapped("days_since_last", "days_since_first"),
        r"days_since_first is PSI .* looks like days_since_last then, as if they were swapped",
    ),
    "amounts swapped": (swapped("amount", "amount_90d"), r"amount_90d is PSI .* looks like amount then"),
    "orders and disks swapped": (swapped("orders", "cds"), r"feature_drift: .*orders is PSI .* looks like cds then"),
    "a column filled with zeros": (column("amount_90d", np.zeros_like), r"changes: amount_90d is 0 in every row"),
    "a column filled with one": (column("orders", np.ones_like), r"changes: orders is 1 in every row"),
    "a column filled with its mean": (
        column("amount", lambda values: np.full_like(values, values.mean())),
        r"changes: amount is 106\.\d+ in every row",
    ),
    "dollars in thousands": (column("amount", lambda values: values / 1_000), r"changes: amount is about 1/1,000 of"),
    "a unit of a thousandth": (column("amount", lambda values: values * 1_000), r"changes: amount is about 1,000 times"),
    "cents for dollars": (column("amount_90d", lambda values: values * 100), r"changes: amount_90d is about 100 times"),
    "weeks for days": (column("days_since_first", lambda values: values / 7), r"changes: days_since_first is about 1/7 of"),
    "hours for days": (
        column("days_since_last", lambda values: values * 24),
        r"expectations: days_since_last is 13,\d+ at the highest, at most 600 is permitted, in [0-9,]+( to [0-9,]+)? of 23,570",
    ),
    "a currency of 2.5 to the dollar": (column("amount", lambda values: values * 2.5), r"feature_drift: amount is PSI"),
    "everything null": (nulls("orders", 1.1), r"expectations: orders has no value in any of 23,570 rows"),
    "everything NaN": (column("cds", lambda values: values * np.nan), r"expectations: cds has no value in any of 23,570 rows"),
    "everything infinite": (
        column("cds", lambda values: values * np.inf),
        r"expectations: cds has no value in any of 23,570 rows",
    ),
    "a fiftieth null": (
        nulls("orders", 0.02),
        r"expectations: orders is missing in 4\d\d of 23,570 rows \(\d\.\d+%\), at most",
    ),
    "a fiftieth NaN": (
        column("amount", some(0.02, np.nan)),
        r"expectations: amount is missing in 4\d\d of 23,570 rows \(\d\.\d+%\), at most",
    ),
    "a third null": (nulls("amount", 0.3), r"changes: amount is missing in 30% of the rows"),
    "a sentinel of -999": (
        column("amount", some(0.05, -999)),
        r"expectations: amount is -999 at the lowest, at least 0 is .* \([45]\.\d+%\)",
    ),
    "one value beyond all": (
        column("amount", some(0.0001, 1e9)),
        r"expectations: amount is 1e\+09 at the highest, at most 100,000 is",
    ),
    "signs turned": (column("amount", np.negative), r"expectations: amount is -13,990\.9 at the lowest, at least 0 is"),
    "a default for a third": (column("days_since_last", some(0.34, 0)), r"feature_drift: days_since_last is PSI"),
    "amounts cut at a limit": (
        column("amount", lambda values: np.minimum(values, np.median(values))),
        r"feature_drift: amount is PSI",
    ),
    "whole dollars of tens": (
        column("amount", lambda values: np.round(values, -2)),
        r"feature_drift: amount is PSI",
    ),
}


@pytest.mark.parametrize("animal", FEATURES)
def test_bad_features(world: World, animal: str) -> None:
    change, finding = FEATURES[animal]
    pq.write_table(change(pq.read_table(world.source)), world.source)
    stopped(world, finding)


@pytest.mark.parametrize("whose", ["all", "one column"])
def test_features_of_other_users(world: World, whose: str) -> None:
    """Every distribution is as it was; only ranks tell."""
    table = pq.read_table(world.source)
    mixed = table.take(pa.array(np.random.default_rng(4).permutation(len(table))))
    names = [name for name in table.column_names if name != "customer_id" and (whose == "all" or name != "days_since_first")]
    for name in names:
        table = table.set_column(table.schema.get_field_index(name), name, mixed[name].combine_chunks())
    pq.write_table(table, world.source)
    stopped(world, r"ranks: 23,570 keys rank as on 1998-06-29 with a correlation of -?0\.[0-2]")


@pytest.mark.parametrize("day", [WEEK[-1], WEEK[0]])
def test_the_features_of_an_earlier_day_again(world: World, good_week: Path, day: str) -> None:
    shutil.copy(good_week.parent / f"{day}.parquet", world.source)
    stopped(world, f"sources: .*these are the features of {day} again: the source was not updated")


@pytest.fixture
def loads(good_week: Path, tmp_path: Path) -> World:
    """As `world`, but the night's features are computed from purchases, and the source is the file of these."""
    shutil.copytree(good_week, tmp_path / "root")
    config, source = pipeline(NAME), tmp_path / "transactions.parquet"
    shutil.copy(config.features.source.tables["transactions"].path, source)
    table = config.features.source.tables["transactions"].model_copy(update={"path": str(source)})
    read = config.features.source.model_copy(update={"tables": {"transactions": table}})
    features = config.features.model_copy(update={"source": read})
    return World(LocalStorage(str(tmp_path / "root")), config.model_copy(update={"features": features}), source)


def purchases(world: World, kept: Callable[[str], float]) -> None:
    """Of each day only a share of the purchases was loaded."""
    table = pq.read_table(world.source)
    shares = np.array([kept(str(day)) for day in table["date"].to_numpy()])
    pq.write_table(table.filter(pa.array(np.random.default_rng(5).random(len(table)) < shares)), world.source)


def test_a_day_whose_purchases_were_not_loaded(loads: World) -> None:
    purchases(loads, lambda day: day < NIGHT)
    stopped(loads, rf"sources: transactions has no row of {NIGHT}, the newest date is {WEEK[-1]}: .* --refresh")


def test_three_days_in_a_row_whose_purchases_were_not_loaded(loads: World) -> None:
    """Every feature of every customer is otherwise each night, because days go by, and none looks odd."""
    purchases(loads, lambda day: day <= WEEK[-3])
    for day in (*WEEK[-2:], NIGHT):
        verdict = judge_features(
            loads.config, loads.storage, freeze(loads.config, loads.storage, day, Quiet(), refresh=True), day
        )
        assert [one.name for one in verdict.blocking] == ["sources"]
        assert f"transactions has no row of {day}, the newest date is {WEEK[-3]}" in verdict.outcome("sources").message


def test_a_day_of_whose_purchases_some_were_not_loaded(loads: World) -> None:
    purchases(loads, lambda day: 0.4 if day == NIGHT else 1.0)
    stopped(loads, rf"sources: transactions has 2\d rows of {NIGHT}, [45]\d% of the usual 50")


def test_a_day_that_was_loaded_late_is_published_when_it_is_frozen_again(loads: World) -> None:
    whole = loads.source.read_bytes()
    purchases(loads, lambda day: day < NIGHT)
    stopped(loads, "sources: ")
    loads.source.write_bytes(whole)
    freeze(loads.config, loads.storage, NIGHT, Quiet(), refresh=True)
    loads.night()
    live = current_log(loads.storage, NAME).latest()
    assert live is not None
    assert live.body.partition == NIGHT


def test_features_that_stand_still_for_a_month(world: World, good_week: Path) -> None:
    shutil.copy(good_week.parent / "1998-05-31.parquet", world.source)
    stopped(world, "feature_drift: .*days_since_first is PSI")


def test_a_source_that_was_cut_off(world: World) -> None:
    os.truncate(world.source, world.source.stat().st_size // 2)
    stopped(world, r"features\.parquet cannot be read as a Parquet file")


def test_a_source_that_is_not_there(world: World) -> None:
    world.source.unlink()
    stopped(world, r"table features: .*features\.parquet does not exist")


def test_a_snapshot_that_was_changed_after_it_was_judged(world: World) -> None:
    frozen = freeze(world.config, world.storage, NIGHT, Quiet())
    path = world.storage.local_path(frozen.folder) / "part-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    stopped(world, "part-00000.parquet")


def test_too_many_rows_that_cannot_be_scored(world: World) -> None:
    """Less than one in a hundred is missing in each column, but the rows are others each time."""
    table = pq.read_table(world.source)
    for number, name in enumerate(("amount", "orders", "cds")):
        values = table[name].to_numpy().copy()
        values[number::125] = np.nan
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(table, world.source)
    stopped(world, r"complete: 23,570 in = .* output ratio 0\.97")


class Otherwise(torch.nn.Module):
    """The approved model with something done to what it takes or gives."""

    def __init__(self, world: World, how: str) -> None:
        super().__init__()
        self.how, model = how, world.registry.resolve(world.config.model)
        for name, values in torch.export.load(str(world.storage.local_path(model.path))).state_dict.items():
            self.register_buffer(name.replace(".", "_"), values.detach().clone())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.how == "inputs in another order":
            features = features[:, [1, 0, 4, 3, 2, 6, 5]]
        if self.how == "scaled inputs":
            features = features * 10.0
        standardized = (torch.log1p(features) - self.mean) / self.deviation
        hidden = torch.relu(torch.nn.functional.linear(standardized, self.hidden_weight, self.hidden_bias))
        logits = torch.nn.functional.linear(hidden, self.output_weight, self.output_bias)
        changed: torch.Tensor = {
            "outputs permuted": -logits,
            "collapsed to a constant": logits * 0 - 2.0,
            "not a number": torch.where(features[:, :1] == features[:, :1].round(), torch.nan, logits),  # on real days
            "too sure of itself": logits * 3,
            "shifted": logits + 1.5,
            "squashed": logits / 4,
        }.get(self.how, logits)
        return changed


MODELS = {
    "outputs permuted": r"previous_model: .* rank correlation -0\.9[0-9]+ against v1 on 1998-06-29",
    "inputs in another order": r"previous_model: .* against v1",
    "scaled inputs": r"previous_model: .* against v1",
    "too sure of itself": r"previous_model: .* blocks as PSI reaches",
    "shifted": r"previous_model: .* blocks as PSI reaches",
    "squashed": r"previous_model: .* blocks as PSI reaches",
    "collapsed to a constant": r"scores: All 23,570 scores are 0\.119203: the model says nothing",
    "not a number": r"scores: 23,570 scores are NaN or infinite",
}


@pytest.mark.parametrize(
    "animal", [pytest.param(one, marks=pytest.mark.long) if "PSI" in MODELS[one] else one for one in MODELS]
)
def test_bad_models(world: World, animal: str) -> None:
    world.approve(Otherwise(world, animal))
    stopped(world, MODELS[animal])


def test_a_model_that_was_trained_on_other_features(world: World) -> None:
    columns = list(world.config.features.contract.columns)
    columns[3] = columns[3].model_copy(update={"name": "orders_30d"})
    before = world.registry.resolve(world.config.model)
    contract = FeatureContract(key=world.config.features.contract.key, columns=tuple(columns))
    card = before.card.model_copy(update={"contract": contract})
    world.registry.register(before.name, "v2", card, world.storage.read(before.path))
    world.registry.approve(before.name, "batch", "v2", why="test", by="the test")
    stopped(world, "orders_30d")


def test_a_model_file_that_was_changed_after_its_approval(world: World) -> None:
    path = world.storage.local_path(world.registry.resolve(world.config.model).path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    stopped(world, "sha256|digest")


@pytest.mark.parametrize("damage", ["lost", "cut", "another chunk's"])
def test_predictions_that_are_damaged_before_they_are_published(world: World, damage: str) -> None:
    folder = world.scored()
    one, other = (folder / f"chunk-0000{number}.parquet" for number in (3, 4))
    if damage == "lost":
        one.unlink()
    elif damage == "cut":
        os.truncate(one, one.stat().st_size // 2)
    else:
        data = other.read_bytes()
        one.write_bytes(data[: one.stat().st_size].ljust(one.stat().st_size, b"\0"))
    with pytest.raises(BatchAssetsError, match="chunk-00003"):
        publish(Night.open(world.config, world.storage, NIGHT, world.registry.resolve(world.config.model)), Quiet())


def test_a_value_that_was_changed_before_it_is_published(world: World) -> None:
    folder = world.scored()
    path = folder / "chunk-00003.parquet"
    table = pq.read_table(path)
    values = table["probability"].to_numpy().copy()
    values[17] = 0.5
    size = path.stat().st_size
    pq.write_table(
        table.set_column(table.schema.get_field_index("probability"), "probability", pa.array(values)),
        path,
        compression="lz4",
        use_dictionary=["label", "model_version", "partition"],
    )
    with path.open("ab") as file:
        file.truncate(max(size, path.stat().st_size))
    with pytest.raises(BatchAssetsError, match="chunk-00003"):
        publish(Night.open(world.config, world.storage, NIGHT, world.registry.resolve(world.config.model)), Quiet())


def test_a_release_that_was_damaged_after_it_went_live(world: World) -> None:
    world.night()
    live = current_log(world.storage, NAME).latest()
    assert live is not None
    folder = world.storage.local_path(f"{NAME}/serving/releases/{live.body.release}")
    table = next(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 100_000)
    data = bytearray(table.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4_096] = bytes(4_096)
    table.write_bytes(data)
    outcome = published_matches(Night.open(world.config, world.storage, NIGHT, world.registry.resolve(world.config.model)))
    assert outcome.blocks


def test_the_zoo_is_large_enough() -> None:
    assert len(FEATURES) + len(MODELS) >= 40


def _sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
