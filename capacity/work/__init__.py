"""Work: what a model makes a device do, as operations with FLOP and bytes. Pure functions, no device, no time."""
