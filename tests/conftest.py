"""Settings of all tests."""
import os

# Before torch is imported. Tests run side by side (pytest -n), on models so small that several
# threads for each would only fight over the cores; runs that a test starts inherit it.
os.environ.setdefault('OMP_NUM_THREADS', '1')
