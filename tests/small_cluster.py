"""Run as a script: a Ray cluster of two workers, until standard input is closed; prints its address."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # Not when tests are collected: Ray looks for the cluster's token when it is imported.
    import ray

    context = ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100_000_000,
        include_dashboard=False,
        logging_level="ERROR",
    )
    print(context.address_info["gcs_address"], flush=True)
    sys.stdin.read()
    ray.shutdown()
