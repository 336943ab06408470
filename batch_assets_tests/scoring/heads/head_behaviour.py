"""What every head does, told through the port alone; a head's own tests inherit it and say what a model gives."""

import numpy as np
import pyarrow as pa
import pytest

from batch_assets.errors import ModelMisfit
from batch_assets.ports import Adapter
from batch_assets.records import Records
from batch_assets.runs.commit import predictions_table
from batch_assets.scoring.heads.head import HEADS, Head, Values


class HeadBehaviour:
    """Inherit it and give `head`, not fitted yet, and `values`: outputs of shape (values, rows) of 1,000 rows or more."""

    @pytest.fixture
    def head(self) -> Head:
        """The head that is tested."""
        raise NotImplementedError

    @pytest.fixture
    def values(self) -> Values:
        """What a model gives."""
        raise NotImplementedError

    def test_what_a_model_gives_fits(self, head: Head, values: Values) -> None:
        assert len(values) == head.width
        assert head.misfit(values) == ""
        assert not head.impossible(values).any()

    def test_the_record_has_its_score(self, head: Head, values: Values) -> None:
        records = head.fitted(values).records(values)
        assert records.kind == head.record
        assert set(head.record.names) <= set(head.fields)
        np.testing.assert_array_equal(records.score, head.score_of(values))
        assert records.score.dtype == np.float32
        assert np.isfinite(records.score).all()

    def test_a_row_that_is_not_finite_has_no_score_and_a_reason(self, head: Head, values: Values) -> None:
        for wrong in (np.nan, np.inf, -np.inf):
            for place in range(len(values)):
                broken = values.copy()
                broken[place, 7] = wrong
                np.testing.assert_array_equal(np.flatnonzero(np.isnan(head.score_of(broken))), [7])
                np.testing.assert_array_equal(np.flatnonzero(np.isnan(head.fitted(values).records(broken).score)), [7])
                assert head.why_not(broken[:, 7])

    def test_a_row_has_the_same_record_among_others(self, head: Head, values: Values) -> None:
        fitted = head.fitted(values)
        every, order = fitted.records(values), np.random.default_rng(0).permutation(values.shape[1])
        assert fitted.records(values[:, order]).same_bits(every.take(order)).all()
        assert fitted.records(values[:, 7:8]).same_bits(every.take(slice(7, 8))).all()

    def test_deciles_are_those_of_the_day_that_it_was_fitted_on(self, head: Head, values: Values) -> None:
        records = head.fitted(values).records(values)
        if "decile" in head.record.names:
            counts = np.bincount(records["decile"], minlength=11)
            assert counts[0] == 0
            assert counts[1:].sum() == len(records)
            assert (np.diff(records.score[np.argsort(records["decile"], kind="stable")][[0, -1]]) >= 0).all()

    def test_another_number_of_values_is_refused(self, head: Head, values: Values) -> None:
        with pytest.raises(ModelMisfit, match=rf"gives {len(values) + 2} values a row, .*it must be"):
            head.fitted(np.concatenate([values, values[:1], values[:1]]))

    def test_a_model_that_says_the_same_of_everybody_is_refused(self, head: Head, values: Values) -> None:
        same = np.repeat(values[:, :1], 100, axis=1)
        assert "a model that says the same of everybody says nothing" in head.misfit(same)
        assert head.model_copy(update={"confirmed": True}).misfit(same) == ""
        assert head.misfit(same[:, :10]) == "", "of few rows that says nothing"

    def test_it_comes_back_from_a_card(self, head: Head, values: Values) -> None:
        fitted = head.fitted(values)
        said = fitted.model_dump(mode="json")
        assert HEADS.adapter(said["kind"]).model_validate(said) == fitted
        assert isinstance(fitted, Adapter)

    def test_its_records_come_back_from_a_file(self, head: Head, values: Values) -> None:
        records = head.fitted(values).records(values)
        table = predictions_table(pa.table({"user": range(len(records))}), records, "v1", "2024-01-31")
        assert table.column_names == ["user", *head.record.names, "model_version", "partition"]
        assert head.record.from_table(table).same_bits(records).all()
        assert head.record.unpacked(records.packed()).same_bits(records).all()

    def test_a_record_is_read_by_a_person(self, head: Head, values: Values) -> None:
        records: Records = head.fitted(values).records(values)
        said = head.record.as_mapping(records.packed()[3])
        assert tuple(said) == head.record.names
        assert said[head.record.score] == records.score[3]
        for field in head.record.fields:
            assert not field.names or said[field.name] in field.names
