curl -N -X POST http://localhost:8001/api/v1/staff/{staff_id}/messages/stream \
  -H "Content-Type: application/json" \
  -d '{"content": "Hello, can you help me with this project?"}' \
  --no-buffer
