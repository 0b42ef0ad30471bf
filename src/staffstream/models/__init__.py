"""What we ask: the chat provider behind `ChatModel`, its offline stand-in, and the embedders. Only this room imports
a provider's SDK.
"""
