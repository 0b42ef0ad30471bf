"""Tools that do not depend on staff or messages: SSE frames, token counts, timers, logs, metrics, traces."""
