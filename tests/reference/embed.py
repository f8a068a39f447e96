"""Writes bytes as a TypeScript module that exports them as a base64 string."""

import base64
import textwrap


def write_module(path, comment, name, description, data):
    """`comment` says what the file holds, `description` what the exported string `name` is."""
    text = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 120))
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(f"/** {comment} */\n\n/** {description} */\nexport const {name}: string = `\n{text}\n`;\n")
