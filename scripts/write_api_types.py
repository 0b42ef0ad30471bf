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
from typing import Any

from staffstream.api.openapi import describe_api
from staffstream.api.routes import ENDPOINTS

PACKAGES = Path(__file__).parents[1] / "packages"
TARGET = PACKAGES / "react" / "src" / "generated" / "api.ts"
GENERATOR = PACKAGES / "types" / "node_modules" / ".bin" / "openapi-typescript"


def write_types() -> str:
    """The file's text: the components and the operations of the API as TypeScript. Raises CalledProcessError."""
    document = describe_api(ENDPOINTS, prefix="", keyed=True, version="")
    document["components"]["schemas"]["Operations"] = _describe_operations(document["paths"])
    for schema in _walk(document["components"]["schemas"]):
        schema.pop("title", None)  # pydantic's titles repeat the names
    document = {"openapi": document["openapi"], "info": document["info"], "paths": {}} | {
        "components": {"schemas": document["components"]["schemas"]}
    }
    options = ["--root-types", "--root-types-no-schema-prefix", "--default-non-nullable", "false"]
    return subprocess.run(
        [GENERATOR, *options], input=json.dumps(document), capture_output=True, text=True, check=True
    ).stdout


def _describe_operations(paths: dict[str, Any]) -> dict[str, Any]:
    """One schema that has, by "METHOD path", the query, the body and the answer of each operation."""
    operations = {
        f"{method.upper()} {path}": _describe_operation(operation)
        for path, methods in paths.items()
        for method, operation in methods.items()
    }
    return _make_object(operations, required=list(operations))


def _describe_operation(operation: dict[str, Any]) -> dict[str, Any]:
    query = [given for given in operation.get("parameters", []) if given["in"] == "query"]
    parts: dict[str, Any] = {}
    if query:
        shapes = {given["name"]: {name: v for name, v in given["schema"].items() if name != "title"} for given in query}
        parts["query"] = _make_object(shapes, required=[])
    if body := operation.get("requestBody"):
        parts["body"] = body["content"]["application/json"]["schema"]
    required = ["body"] if body and body.get("required") else []
    [answer] = [answer for status, answer in operation["responses"].items() if status in ("200", "201", "202", "204")]
    media_type, content = next(iter(answer.get("content", {"": {"schema": {"type": "null"}}}).items()))
    if media_type == "text/event-stream":
        parts["stream"] = {"const": True}
        return _make_object(parts, required=[*required, "stream"])
    parts["response"] = content["schema"] if media_type in ("", "application/json") else {"type": "string"}
    return _make_object(parts, required=[*required, "response"])


def _make_object(properties: dict[str, Any], *, required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


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
