"""Long-term memory: recall, extraction of facts, summaries, and the import of past chats. It works on values and on
storage functions; it holds no SQL.
"""
