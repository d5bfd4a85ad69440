"""Reads the folder of `xplore synth export` with pyarrow and with the `datasets` library.

    exported_rows.py JOB ANSWERS

JOB is JSON: the exported `folder`, and the names of its `sets`. Writes JSON to ANSWERS: under `pyarrow` and `datasets`, the rows of
each split of each set; under `same_features`, whether the card of a set declares the types that its Parquet files have; under
`card`, the front matter of the card.
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet
import yaml
from datasets import Features, load_dataset


def main():
    job, answers = (Path(path) for path in sys.argv[1:])
    job = json.loads(job.read_text())
    folder = Path(job["folder"])
    found = {"pyarrow": {}, "datasets": {}, "same_features": {}}
    found["card"] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    for name in job["sets"]:
        tables = {path.stem: pyarrow.parquet.read_table(path) for path in sorted((folder / name).glob("*.parquet"))}
        # The library reads files, features and sizes from the card, and checks the sizes.
        loaded = load_dataset(str(folder), name)
        found["pyarrow"][name] = {split: table.to_pylist() for split, table in tables.items()}
        found["datasets"][name] = {split: rows.to_list() for split, rows in loaded.items()}
        found["same_features"][name] = all(
            rows.features == Features.from_arrow_schema(tables[split].schema) for split, rows in loaded.items()
        )
    answers.write_text(json.dumps(found))


main()
