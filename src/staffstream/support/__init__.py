"""Tools that know nothing of staff or messages: SSE frames, token counts, timers, logs, metrics, traces."""
