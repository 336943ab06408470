// Looks keys up in what is live in Redis: node read_redis.mjs redis://127.0.0.1:6379 batch_assets churn 42 43
import { createClient, RESP_TYPES } from "redis";

const [url, prefix, pipeline, ...keys] = process.argv.slice(2);
const client = await createClient({ url }).connect();
const bytes = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
const release = JSON.parse(await client.hGet(`${prefix}:{${pipeline}}:live`, "release")); // the pointer

function splitmix64(x) {
  let z = BigInt.asUintN(64, x + 0x9e3779b97f4a7c15n);
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return z ^ (z >> 31n);
}

function bucketOf(key) {
  let hash = 0x8e9d5aab4c1f7a35n;
  if (release.key[0].dtype !== "string") return splitmix64(BigInt.asUintN(64, BigInt(key)) ^ hash);
  const text = Buffer.from(key);
  const words = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8)]);
  for (let at = 0; at < words.length; at += 8) hash = splitmix64(hash ^ words.readBigUInt64LE(at));
  return splitmix64(hash ^ BigInt(text.length));
}

const SIZES = { f4: 4, f8: 8, i1: 1, i2: 2, i4: 4, i8: 8 };
const READ = { f4: "readFloatLE", f8: "readDoubleLE", i1: "readInt8", i2: "readInt16LE", i4: "readInt32LE", i8: "readBigInt64LE" };

function unpacked(record) {
  let at = 0; // fields lie side by side, little-endian, without padding
  const next = (dtype) => record[READ[dtype]]((at += SIZES[dtype]) - SIZES[dtype]);
  const value = ({ dtype, length, names }) =>
    length ? Array.from({ length }, () => next(dtype)) : names.length ? names[next(dtype)] : next(dtype);
  return Object.fromEntries(release.record.fields.map((field) => [field.name, value(field)]));
}

for (const key of keys) {
  const bucket = `${prefix}:${pipeline}:${release.built.build}:${bucketOf(key) % BigInt(release.built.buckets)}`;
  const record = await bytes.hGet(bucket, key); // of more than 64 bytes it lies otherwise: serving/redis/bucket.py
  if (!record && !(await client.exists(bucket))) throw new Error(`${bucket} is lost: publish the day again.`);
  console.log(JSON.stringify(record ? unpacked(record) : null));
}
client.destroy();
