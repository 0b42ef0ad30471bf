"""`/staff/{staff_id}/learning`: what waits to be learned from, and learning from it now."""

from staffstream.api.endpoints import Call, Endpoints, Result
from staffstream.api.response_models import LearningState
from staffstream.domain import Scope
from staffstream.storage import jobs, learning_marks
from staffstream.storage.database import Connection

endpoints = Endpoints("learning", "/api/v1/staff/{staff_id}/learning")


@endpoints.get("", response=LearningState)
async def show(call: Call) -> LearningState:
    """How many of the caller's messages nothing has been learned from yet."""
    scope = await call.find_scope()
    return await call.services.database.read(lambda conn: _describe(conn, scope))


@endpoints.post("", status=202, response=LearningState)
async def start(call: Call) -> Result:
    """Learn from those messages now, instead of after ten of them or a quiet while."""
    scope, learning = await call.find_scope(), call.services.learning

    def enqueue(tx: Connection) -> LearningState:
        for conversation_id in learning_marks.list_unlearned(tx, scope):
            learning.asked_now.add(conversation_id)
            jobs.enqueue_job(tx, "extract", conversation_id, scope_id=scope.id, due_in_s=0, replace=True)
        return _describe(tx, scope)

    state = await call.services.database.write(enqueue)
    learning.jobs_changed.set()
    return Result(state)


def _describe(conn: Connection, scope: Scope) -> LearningState:
    return {"waiting_messages": sum(learning_marks.list_unlearned(conn, scope).values())}
