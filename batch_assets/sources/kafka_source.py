"""`kind: kafka`: the last value of each key of a topic at the end of the partition's day."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, model_validator
from typing_extensions import override

from batch_assets.errors import SourceError
from batch_assets.secret import Secret
from batch_assets.sources.kafka.avro_format import AvroFormat
from batch_assets.sources.kafka.cluster import OURS, Cluster, Option
from batch_assets.sources.kafka.column_types import ColumnType, arrow_type
from batch_assets.sources.kafka.decoding import Decoded, Decoder
from batch_assets.sources.kafka.describing import Faults, described
from batch_assets.sources.kafka.extents import Window, extents
from batch_assets.sources.kafka.json_format import JsonFormat
from batch_assets.sources.kafka.last_values import LastValues
from batch_assets.sources.kafka.reading import Batch, Reading
from batch_assets.sources.streamed import Streamed, StreamedSource
from batch_assets.threads import in_threads

_SENSITIVE = re.compile(r"password|secret|key\.pem|\.config$")


class KafkaSource(StreamedSource):
    """A snapshot of a topic: of each key, the last message before the end of the partition's day.

    Keys are those of the messages. A message without a value deletes its key, and one without a key stands for itself. The
    topic is read from the earliest offset that is retained up to the first message that is not older than the day's end, or
    else up to the offset that was the end when reading began. Messages that cannot be decoded are counted, and take their
    keys' place as others do.

    Example:
        A topic of JSON objects, whose keys say who::

            source:
              kind: kafka
              servers: broker-1:9093,broker-2:9093
              topic: user_features
              key_column: user_id
              columns: {user_id: int64, visits: int32, minutes: float32}
              options:
                security.protocol: SASL_SSL
                sasl.mechanism: SCRAM-SHA-512
                sasl.username: batch-assets
                sasl.password: {env: KAFKA_PASSWORD}
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kind: Literal["kafka"] = "kafka"
    servers: str = Field(description="Where brokers answer: host:port, several with commas between them.", min_length=1)
    topic: str = Field(description="The topic's name.", min_length=1)
    window: Literal["state", "day"] = Field(
        "state",
        description="state: the last message of each key until the day's end. day: of messages whose time is in the day alone.",
    )
    key_column: str | None = Field(
        None, description="The column that the messages' keys say as text; None: all columns are in the values."
    )
    format: Literal["json", "avro"] = Field("json", description="How values are written.")
    columns: dict[str, ColumnType] = Field(
        {},
        description="Column -> Arrow type, like int64, string, date, timestamp[us], decimal128(10, 2), list<float32>: of JSON "
        "all that are taken, of Avro only the key_column, which is a string if nothing is said.",
    )
    avro_schema: str | None = Field(None, description="Of Avro: the file with the schema that messages were written with.")
    schema_id: int | None = Field(
        None,
        description="Of Avro with Confluent's header: the number of that schema in the header; None: there is no header.",
        ge=0,
    )
    options: dict[str, Option] = Field(
        {},
        description="Options of librdkafka, like security.protocol; of a secret its environment variable: {env: NAME}.",
    )
    timeout_s: float = Field(60.0, description="For how many seconds brokers may be silent.", gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> "KafkaSource":
        values = self.columns.keys() - {self.key_column}
        if self.format == "json" and (not values or self.avro_schema is not None or self.schema_id is not None):
            raise ValueError("JSON needs columns, beside the key_column, and has no Avro schema")
        if self.format == "avro" and (values or self.avro_schema is None):
            raise ValueError("Avro needs an avro_schema, which has the columns; only of the key_column a type can be said")
        if taken := sorted(OURS & self.options.keys()):
            raise ValueError(f"{taken[0]} cannot be one of the options, as it follows from what else is said")
        open_ = [name for name, said in self.options.items() if _SENSITIVE.search(name) and not isinstance(said, Secret)]
        if open_:
            raise ValueError(f"{open_[0]} is a secret: put it into an environment variable and say its name, {{env: NAME}}")
        return self

    @property
    @override
    def table_name(self) -> str:
        return self.topic

    @override
    @contextmanager
    def streamed(self, day: str, spill: Path, timezone: str) -> Iterator[Streamed]:
        window = Window(date.fromisoformat(day), timezone, only=self.window == "day")
        decoder, avro = self._decoder()
        cluster = Cluster(self.servers, self.topic, self.options, self.timeout_s)
        reading, faults = Reading(cluster, extents(cluster, window), window), Faults()
        with TemporaryDirectory(dir=spill) as folder:
            try:
                with (
                    LastValues(Path(folder), decoder.schema) as kept,
                    closing(reading.batches()) as batches,
                    closing(in_threads(partial(_decoded, decoder), batches)) as found,
                ):
                    for batch, valued, decoded in found:
                        faults.add(batch, valued, decoded)
                        kept.add(batch.keys, batch.partitions, batch.times, decoded, np.array(valued, np.int64))
            except OSError as error:
                raise SourceError(f"The messages of {self.topic} cannot be kept in {spill}: {error}; make room.") from error
            standing = kept.standing(spill, self.memory_limit)
            told = [f"{name} is no column that Arrow knows, and is left out" for name in avro.left_out] if avro else []
            table = described(cluster, window, reading.tallies, standing, faults, told)
            yield Streamed(kept.rows(standing), table, (avro.text,) if avro else ())

    def _decoder(self) -> tuple[Decoder, AvroFormat | None]:
        key = None
        if self.key_column is not None:
            key = pa.field(self.key_column, arrow_type(self.columns.get(self.key_column, "string")))
        if self.avro_schema is not None:
            avro = AvroFormat(self.avro_schema, self.schema_id)
            return Decoder(avro, key), avro
        columns = [(name, arrow_type(said)) for name, said in self.columns.items() if name != self.key_column]
        return Decoder(JsonFormat(pa.schema(columns)), key), None


def _decoded(decoder: Decoder, batch: Batch) -> tuple[Batch, list[int], Decoded]:
    """A batch, the places of its messages that have a value, and what these say."""
    valued = [place for place, value in enumerate(batch.values) if value is not None]
    keys = batch.keys if len(valued) == len(batch.keys) else [batch.keys[place] for place in valued]
    return batch, valued, decoder.decoded([value for value in batch.values if value is not None], keys)
