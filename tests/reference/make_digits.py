"""Writes src/data/digits_data.ts from the digits.csv.gz that scikit-learn ships.

    python3 tests/reference/make_digits.py [digits.csv.gz]
"""

import gzip
import importlib.util
import pathlib
import sys
import zlib

from embed import write_module

ROOT = pathlib.Path(__file__).parents[2]
COMMENT = """The digits, made by tests/reference/make_digits.py.
 *
 * Alpaydin, E. & Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository,
 * https://doi.org/10.24432/C50P49, CC BY 4.0; the test set, as scikit-learn (BSD-3-Clause) ships it.
"""
DESCRIPTION = "In base64 and zlib: 1,797 × 64 counts from 0 to 16, one byte each, then 1,797 classes."


def installed_csv():
    package = pathlib.Path(importlib.util.find_spec("sklearn").submodule_search_locations[0])
    return package / "datasets" / "data" / "digits.csv.gz"


def main():
    source = sys.argv[1] if len(sys.argv) > 1 else installed_csv()
    with gzip.open(source, "rt", encoding="ascii") as file:
        rows = [[int(field) for field in line.split(",")] for line in file]
    assert len(rows) == 1797 and all(len(row) == 65 for row in rows)
    counts = bytes(count for row in rows for count in row[:64])
    labels = bytes(row[64] for row in rows)
    target = ROOT / "src" / "data" / "digits_data.ts"
    write_module(target, COMMENT, "DIGITS", DESCRIPTION, zlib.compress(counts + labels, 9))


if __name__ == "__main__":
    main()
