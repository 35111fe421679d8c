"""Checkpoints: what is written, how it is sent, and how it comes back into memory."""
