"""What the relay is compared with: each a whole server that does the same work in another way."""
