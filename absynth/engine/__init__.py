"""Where the pieces of a long computation run: one after the other in this process, or on a cluster."""

from absynth.engine.jobs import Engine, Job, run_jobs
from absynth.engine.local import LocalEngine, find_device, place
from absynth.engine.opening import open_engine

__all__ = ["Engine", "Job", "LocalEngine", "find_device", "open_engine", "place", "run_jobs"]
