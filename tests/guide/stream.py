import httpx
import json

async def send_streaming_message(staff_id: str, content: str):
    async with httpx.AsyncClient() as client:
        async with client.stream(
            "POST",
            f"http://localhost:8001/api/v1/staff/{staff_id}/messages/stream",
            json={"content": content},
            timeout=120.0
        ) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    data = json.loads(line[6:])

                    if data["type"] == "token":
                        print(data["content"], end="", flush=True)
                    elif data["type"] == "done":
                        print(f"\n\nMessage saved: {data['message_id']}")
                    elif data["type"] == "error":
                        print(f"\nError: {data['detail']}")
