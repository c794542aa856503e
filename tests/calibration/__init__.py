"""Do the statistics keep what they promise? ``python -m tests.calibration`` simulates studies and writes
down how often a difference was claimed where there is none, and found where there is one."""
