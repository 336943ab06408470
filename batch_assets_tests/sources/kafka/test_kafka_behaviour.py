"""A Kafka topic does what every source does, whatever its messages are written in."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import fastavro
import pyarrow as pa
import pytest
from typing_extensions import override

from batch_assets.sources.kafka_source import KafkaSource
from batch_assets.sources.source import Source
from batch_assets_tests.servers import KafkaServer
from batch_assets_tests.sources.kafka.topics import Topic, at
from batch_assets_tests.sources.source_behaviour import SourceBehaviour


class KafkaBehaviour(SourceBehaviour):
    """Each part is a partition; its rows are messages without a key, with a time of their day."""

    @pytest.fixture(autouse=True)
    def _on_a_server(self, kafka_server: KafkaServer) -> None:
        self.url = kafka_server.url

    def source(self, folder: Path, topic: str, part: pa.Table) -> KafkaSource:
        raise NotImplementedError

    def value(self, row: dict[str, Any], part: pa.Table) -> bytes:
        raise NotImplementedError

    @override
    def placed(self, folder: Path, parts: Sequence[pa.Table]) -> Source:
        if parts:
            name = f"t-{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}"
            topic = Topic.made(self.url, len(parts), name)
            producer = topic.producer()
            for partition, part in enumerate(parts):
                for row in part.to_pylist():
                    time = at(row.pop("day"))
                    producer.produce(topic.name, self.value(row, part), partition=partition, timestamp=time)
            assert producer.flush(60) == 0
            self.last_placed = self.source(folder, topic.name, parts[0].drop_columns(["day"]))
        return self.last_placed


class TestJson(KafkaBehaviour):
    @override
    def source(self, folder: Path, topic: str, part: pa.Table) -> KafkaSource:
        names = {"float": "float32", "double": "float64", "date32[day]": "date"}

        def said(type_: pa.DataType) -> str:
            return f"list<{said(type_.value_type)}>" if pa.types.is_list(type_) else names.get(str(type_), str(type_))

        columns = {field.name: said(field.type) for field in part.schema}
        return KafkaSource(servers=self.url, topic=topic, columns=columns, window="day")

    @override
    def value(self, row: dict[str, Any], part: pa.Table) -> bytes:
        return json.dumps(row, default=lambda said: said.isoformat()).encode()


class TestAvro(KafkaBehaviour):
    lacks: ClassVar[frozenset[str]] = frozenset({"i8", "i16"})

    AVRO: ClassVar[dict[str, Any]] = {
        "int32": "int",
        "int64": "long",
        "float": "float",
        "double": "double",
        "bool": "boolean",
        "string": "string",
        "date32[day]": {"type": "int", "logicalType": "date"},
        "timestamp[us]": {"type": "long", "logicalType": "local-timestamp-micros"},
    }

    def schema(self, part: pa.Table) -> dict[str, Any]:
        def avro(type_: pa.DataType) -> list[Any]:
            items = pa.types.is_list(type_)
            return ["null", {"type": "array", "items": avro(type_.value_type)} if items else self.AVRO[str(type_)]]

        fields = [{"name": field.name, "type": avro(field.type)} for field in part.schema if field.name != "day"]
        return {"type": "record", "name": "Row", "fields": fields}

    @override
    def source(self, folder: Path, topic: str, part: pa.Table) -> KafkaSource:
        path = folder.with_suffix(".avsc")
        path.write_text(json.dumps(self.schema(part)))
        return KafkaSource(servers=self.url, topic=topic, format="avro", avro_schema=str(path), window="day")

    @override
    def value(self, row: dict[str, Any], part: pa.Table) -> bytes:
        written = io.BytesIO()
        fastavro.schemaless_writer(written, self.schema(part), row)
        return written.getvalue()
