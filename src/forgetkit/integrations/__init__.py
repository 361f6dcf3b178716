"""Forgetting in the training loops of others: one module for each trainer, on forgetkit's public API alone.

Import the module of the trainer at hand; the others are never imported. ``docs/integrations.md`` shows each at work.
"""
