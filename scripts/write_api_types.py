"""Write the TypeScript types of the API, packages/react/src/generated/api.ts, from the server's own description.

    make types                                     # after a change of the API
    python scripts/write_api_types.py --check      # fails if the file is not what would be written

The types come from openapi-typescript, a development dependency of packages/types (npm ci --prefix packages).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from staffstream.api.openapi import describe_api
from staffstream.api.routes import ENDPOINTS

PACKAGES = Path(__file__).parents[1] / "packages"
TARGET = PACKAGES / "react" / "src" / "generated" / "api.ts"
GENERATOR = PACKAGES / "types" / "node_modules" / ".bin" / "openapi-typescript"


def write_types() -> str:
    """The file's text: the components of the API as TypeScript. Raises CalledProcessError."""
    document = describe_api(ENDPOINTS, prefix="", keyed=True, version="")
    for schema in _walk(document["components"]["schemas"]):
        schema.pop("title", None)  # pydantic's titles repeat the names
    document = {"openapi": document["openapi"], "info": document["info"], "paths": {}} | {
        "components": {"schemas": document["components"]["schemas"]}
    }
    options = ["--root-types", "--root-types-no-schema-prefix", "--default-non-nullable", "false"]
    return subprocess.run(
        [GENERATOR, *options], input=json.dumps(document), capture_output=True, text=True, check=True
    ).stdout


def _walk(schema: object) -> list[dict[str, object]]:
    if isinstance(schema, dict):
        inner = [found for value in schema.values() for found in _walk(value)]
        return [schema, *inner] if isinstance(schema.get("title"), str) else inner
    if isinstance(schema, list):
        return [found for item in schema for found in _walk(item)]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is not fresh")
    check = parser.parse_args().check
    text = write_types()
    if check and TARGET.read_text("utf-8") != text:
        sys.exit(f"{TARGET} is not fresh; write it with: make types")
    if not check:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
