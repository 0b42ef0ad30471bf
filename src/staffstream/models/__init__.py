"""The models: the chat provider behind the protocol `ChatModel`, its offline stand-in, and the embedders. Only this
package imports a provider's SDK.
"""
