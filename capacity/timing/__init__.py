"""Time: operation × device × calibration → seconds with a band."""
