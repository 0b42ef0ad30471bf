"""Health, readiness, and what the server is."""

import asyncio
from collections import Counter
from typing import get_args

from starlette.requests import Request
from starlette.responses import Response

from staffstream.api.auth import get_services
from staffstream.api.endpoints import Call, Endpoints
from staffstream.api.json_responses import respond_json
from staffstream.api.response_models import Health, Readiness
from staffstream.domain import Mode, now_text
from staffstream.errors import StaffstreamError
from staffstream.storage import jobs, runs
from staffstream.storage.database import Connection
from staffstream.support.metrics import CONTENT_TYPE

endpoints = Endpoints("system")

_TOLD = {"embedder", "jobs", "background"}  # checks for a person to know of: replies go on without


@endpoints.get("/healthz", access="open", response=Health)
async def health(request: Request) -> Health:
    """The process runs."""
    return {"status": "ok"}


@endpoints.get("/readyz", access="open", response=Readiness, also={503: "A check fails."})
async def ready(request: Request) -> Response:
    """Whether requests can be served: 200, or 503 with the checks that fail."""
    services = get_services(request)
    checks = {
        "draining": "ok" if not services.pipeline.active_runs.draining else "draining",
        "embedder": "ok" if services.learning.embedder_answers else "silent",
    }
    checks["database"] = await services.write_probe.check()
    try:
        oldest_run, oldest_job = await services.database.read(_find_oldest)
        checks["jobs"] = "dead" if await services.database.read(jobs.is_any_dead) else "ok"
        limit = now_text(-services.settings.max_queue_age_s)
        checks["background"] = "ok" if oldest_job > limit else "behind"
        checks["queue"] = "ok" if oldest_run > limit else "stuck"
    except StaffstreamError as error:
        checks["database"] = error.code
    fine = all(value == "ok" for name, value in checks.items() if name not in _TOLD)
    return respond_json({"status": "ok" if fine else "unavailable", "checks": checks}, 200 if fine else 503)


@endpoints.get("/metrics", access="admin", media_type="text/plain")
async def export_metrics(call: Call) -> Response:
    """Everything that is counted, for Prometheus. An admin's key, where keys are asked for."""
    services = call.services
    metrics, active_runs = services.pipeline.metrics, services.pipeline.active_runs.by_id.values()
    making = Counter(active.run.mode for active in active_runs)
    for mode in get_args(Mode):
        metrics.active.labels(mode).set(making[mode])
    metrics.subscribers.set(sum(active.log.subscriber_count for active in active_runs))
    metrics.note_waiting(*await services.database.read(_measure_waiting))
    metrics.note_files(services.database.measure_bytes())
    return Response(await asyncio.to_thread(metrics.export), media_type=CONTENT_TYPE)


def _measure_waiting(conn: Connection) -> tuple[int, str, dict[str, tuple[int, int]]]:
    counts = {count.kind: (count.due, count.dead) for count in jobs.measure_jobs(conn)}
    by_kind: dict[str, tuple[int, int]] = {kind: counts.get(kind, (0, 0)) for kind in get_args(jobs.JobKind)}
    return runs.measure_queue(conn)[0], min(_find_oldest(conn)), by_kind


def _find_oldest(conn: Connection) -> tuple[str, str]:
    """Since when the reply and the job have been due that have waited longest; now if none waits."""
    return runs.measure_queue(conn)[1] or now_text(), jobs.find_oldest_due(conn) or now_text()
