"""The live proof: a real server on this machine beside what the simulator says about it beforehand."""
