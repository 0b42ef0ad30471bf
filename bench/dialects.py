"""What a relayed token costs in the words of other clients, beside our own frames in the same run."""

from collections.abc import Callable

from bench import clients, processes
from bench.clients import OURS, QUESTION, Marks
from bench.figures import Figure
from bench.processes import Server
from bench.relay import STREAMS, Contender, ask_ours, run_rounds

TARGET = 1.5


def _find_staff(server: Server) -> str:
    return str(clients.call(server.port, "POST", "/staff", {"name": "Ada"})["id"])


def ask_openai(server: Server) -> list[bytes]:
    body = {"model": _find_staff(server), "stream": True, "messages": [{"role": "user", "content": QUESTION}]}
    return [clients.write_post("/v1/chat/completions", body)] * STREAMS


def ask_ai_sdk(server: Server) -> list[bytes]:
    path = f"/api/v1/staff/{_find_staff(server)}/chat"
    message = {"id": "1", "role": "user", "parts": [{"type": "text", "text": QUESTION}]}
    return [clients.write_post(path, {"id": f"chat-{n}", "messages": [message]}) for n in range(STREAMS)]


def ask_ag_ui(server: Server) -> list[bytes]:
    path = f"/api/v1/staff/{_find_staff(server)}/ag-ui"
    message = {"id": "1", "role": "user", "content": QUESTION}
    return [clients.write_post(path, _make_input(f"thread-{n}", message)) for n in range(STREAMS)]


def _make_input(thread: str, message: dict[str, str]) -> dict[str, object]:
    return {"threadId": thread, "runId": "1", "messages": [message]}


def _contend(name: str, ask: Callable[[Server], list[bytes]], token: bytes, end: bytes) -> Contender:
    return Contender(name, processes.run_ours, ask, Marks(token=token, end=end))


CONTENDERS = (
    Contender("our frames", processes.run_ours, ask_ours, OURS),
    _contend("OpenAI", ask_openai, b'"delta":{"content":', b'"finish_reason":"stop"'),
    _contend("AI SDK", ask_ai_sdk, b'"text-delta"', b'"finishReason":"stop"'),
    _contend("AG-UI", ask_ag_ui, b'"TEXT_MESSAGE_CONTENT"', b'"RUN_FINISHED"'),
)


async def measure(*, smoke: bool) -> list[Figure]:
    """Each dialect against our own frames."""
    costs = await run_rounds(CONTENDERS, rounds=1 if smoke else 5, tokens=150 if smoke else 500)
    own = costs["our frames"].token_us
    return [
        Figure(f"CPU of a token, {name} / our frames", cost.token_us / own, "×", None if smoke else TARGET)
        for name, cost in costs.items()
        if name != "our frames"
    ]
