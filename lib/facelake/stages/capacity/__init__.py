"""Cost and scaling forecasts from measured costs."""
