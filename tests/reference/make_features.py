"""Writes src/eval/digits_features_data.ts from the safetensors file of the digits' feature network.

    python3 tests/reference/make_features.py digits_features.safetensors
"""

import pathlib
import sys

from embed import write_module

ROOT = pathlib.Path(__file__).parents[2]
COMMENT = """The digits' feature network, made by tests/reference/make_features.py.
 *
 * A small convolutional classifier trained on the 1,797 digits of src/data/digits.ts; the file's metadata says how it
 * is built and how its input is scaled.
"""
DESCRIPTION = "The network's safetensors file in base64."


def main():
    data = pathlib.Path(sys.argv[1]).read_bytes()
    target = ROOT / "src" / "eval" / "digits_features_data.ts"
    write_module(target, COMMENT, "DIGITS_FEATURES", DESCRIPTION, data)


if __name__ == "__main__":
    main()
