"""What users write, as frozen pydantic models: hardware, models, scenarios, prices, calibrations, measurements."""
