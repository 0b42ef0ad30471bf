"""Past conversations and memories out of the exports of ChatGPT, Claude.ai, Letta and mem0: one reader module a format,
behind `read_export`.

These formats belong to others and change, so a reader raises nothing about a single message. It leaves out what it
cannot use and counts it in the report, by reason.
"""

from staffstream.memory.chat_import.files import MAX_CHARACTERS
from staffstream.memory.chat_import.past import PastChat, PastMemory, Report
from staffstream.memory.chat_import.reading import read_export

__all__ = ["MAX_CHARACTERS", "PastChat", "PastMemory", "Report", "read_export"]
