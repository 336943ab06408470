"""An exported day as an offline source of Feast's: `EXPORT=$(batch-assets path churn --of export) feast apply`."""

import os

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float32, String

user = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
day = FileSource(path=os.environ["EXPORT"], timestamp_field="event_timestamp")
fields = [Field(name="probability", dtype=Float32), Field(name="label", dtype=String)]
churn = FeatureView(name="churn", entities=[user], schema=fields, source=day)
