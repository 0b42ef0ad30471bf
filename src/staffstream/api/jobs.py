"""`/jobs`: the background work of the server, for admins: looking at it, trying it again, dropping it."""

from typing import Any

from staffstream.api.endpoints import Call, Endpoints, Result, make_page
from staffstream.api.request_models import JobPage
from staffstream.api.response_models import JOB, show_job
from staffstream.storage import jobs

endpoints = Endpoints("jobs", "/api/v1/jobs")


@endpoints.get("", access="admin", response=JOB.models, sends=["Link"], etag=True)
async def list_some(call: Call, query: JobPage) -> Result:
    """The jobs there are, newest first; finished ones leave nothing."""
    found = await call.services.database.read(
        lambda conn: jobs.list_jobs(
            conn, state=query.state, kind=query.kind, limit=query.limit + 1, before=query.before
        )
    )
    return make_page(call, found, query, show_job)


@endpoints.get("/{job_id}", access="admin", response=JOB.model)
async def show(call: Call) -> dict[str, Any]:
    """One job."""
    job_id = call.param("job_id")
    return show_job(await call.services.database.read(lambda conn: jobs.get_job(conn, job_id)))


@endpoints.post("/{job_id}/retry", access="admin", status=202, response=JOB.model, problems=[409])
async def retry(call: Call) -> dict[str, Any]:
    """Do a dead or waiting job now, with all its attempts before it. The job that will do it may have another id."""
    job_id = call.param("job_id")
    job = await call.services.database.write(lambda tx: jobs.retry_job(tx, job_id))
    call.services.worker.wake.set()
    return show_job(job)


@endpoints.delete("/{job_id}", access="admin", problems=[409])
async def drop(call: Call) -> None:
    """Erase a job that is not running: what it was to do is not done."""
    job_id = call.param("job_id")
    await call.services.database.write(lambda tx: jobs.drop_job(tx, job_id))
