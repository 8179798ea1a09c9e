"""Phases: a serving step, a training step, a batch job, and the memory each needs."""
