"""Bootstrap intervals, exact tests, corrections and power, on arrays alone."""
