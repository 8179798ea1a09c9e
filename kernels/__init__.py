"""The real thing: encoders, scoring, look-ups, recurrent layers and training steps, run and timed on this machine.

Nothing here is imported by planning; only `capacity calibrate` and `capacity hardware detect` reach for it.
"""
