# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`python ray_cluster.py SOURCE TARGET [KILL_AFTER]` enhances a corpus on a cluster of two nodes on this machine.

One of them is killed when KILL_AFTER seconds of audio are done.
"""

import socket
import sys
from contextlib import ExitStack
from functools import partial

import ray
from ray.cluster_utils import Cluster
from ray.data import DataContext

from modeling_sparse_merit.inference.corpora import load_model
from modeling_sparse_merit.inference.ray_corpora import enhance_dataset, read_sources

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def node_options() -> dict[str, int]:
    """A small node; Ray waits 15 s, too short for a busy machine, for ports that are not given."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in PORTS]
        ports = [one.getsockname()[1] for one in sockets]
    return {"num_cpus": 1, "object_store_memory": 100_000_000, **dict(zip(PORTS, ports, strict=True))}


def main(source: str, target: str, kill_after: float = float("inf")) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**node_options(), "include_dashboard": False})
    nodes = [cluster.add_node(**node_options())]
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    DataContext.get_current().enable_progress_bars = False

    def progress(done: float, total: float) -> None:
        print(f"{done:.1f} of {total:.1f} s", flush=True)
        if done > kill_after and nodes:
            nodes.pop().kill_all_processes(check_alive=False, allow_graceful=False)
            print("node killed", flush=True)

    try:
        load = partial(load_model, "tiny", device="cpu")
        rows = enhance_dataset(read_sources([source]), target, load, actors=2, progress=progress).to_pandas()
        print(f"{len(rows)} rows", flush=True)
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(float, sys.argv[3:]))
