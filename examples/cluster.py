#!/usr/bin/env python3
"""A search on a cluster of two nodes, here both on this machine.

    python examples/cluster.py --trials 4 --out runs/cluster

A real cluster is started by `ray up clusters/aws.yaml` or the like (clusters/README.md); from there
on the call is this one, with the cluster's address. RUN and the images must lie where every node
reaches them. The command line's way, and what it would upload:

    slimfront submit --address http://HOST:8265 -- digits --out RUN
"""

from __future__ import annotations

import argparse
import tempfile

import ray
from ray.cluster_utils import Cluster

import search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--out", default="runs/cluster", help="folder that all nodes reach")
    options = parser.parse_args()
    # sockets lie in it: the path must be short
    with tempfile.TemporaryDirectory(
        prefix="sf-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:
        small = {"num_cpus": 1, "object_store_memory": 10**8}
        head = {"include_dashboard": False, "temp_dir": folder, **small}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(**small)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            result = search.run(
                "digits",
                out=options.out,
                trials=options.trials,
                base={"epochs": 5},
                finetune={"epochs": 1},
                search={"final_seeds": 0},
            )
            nodes = sum(node["Alive"] for node in ray.nodes())
            hosts = len(set(result.trials["host"].to_pylist()))
            print(f"{result.trials.num_rows} trials on {nodes} nodes of {hosts} host")
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main()
