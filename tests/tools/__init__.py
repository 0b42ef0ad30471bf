"""What tests are made with: the running server, the scripted provider, readers of streams, receivers of webhooks."""
