// Looks keys up in what is live, in the Arrow file of its release: node read_release.mjs data churn 42 43
import { readdirSync, readFileSync } from "node:fs";
import { tableFromIPC } from "apache-arrow";

const [root, pipeline, ...keys] = process.argv.slice(2);
const serving = `${root}/${pipeline}/serving`;
const read = (path) => JSON.parse(readFileSync(path, "utf8"));

const entries = readdirSync(`${serving}/_current`).filter((name) => name.endsWith(".json"));
const live = read(`${serving}/_current/${entries.sort().at(-1)}`).body; // the highest number is in force
const folder = `${serving}/releases/${live.release}`;
const release = read(`${folder}/arrow.json`);
const table = tableFromIPC(readFileSync(`${folder}/${release.built.folder}/release.arrow`));

// The first column is the key, in ascending order: whole numbers, or text by its UTF-8 bytes.
const [key] = release.key;
const typed = key.dtype === "string" ? (one) => Buffer.from(one) : BigInt;
const before = key.dtype === "string" ? (one, other) => Buffer.compare(one, other) < 0 : (one, other) => one < other;
const column = table.getChild(key.name);

function find(wanted) {
  let low = 0;
  let high = table.numRows;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (before(typed(column.get(middle)), wanted)) low = middle + 1;
    else high = middle;
  }
  const found = low < table.numRows && !before(wanted, typed(column.get(low)));
  return found ? table.select(release.record.fields.map((field) => field.name)).get(low) : null;
}

for (const one of keys) console.log(JSON.stringify(find(typed(one))));
