# SPDX-License-Identifier: Apache-2.0
"""A whole cluster, examined from the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from decnn_tvm.cluster_file import ClusterFile
from decnn_tvm.doctor.findings import Finding, Report
from decnn_tvm.doctor.link_checks import LinkProber, Route, check_links
from decnn_tvm.doctor.worker_checks import Context, check_trackers, examine
from decnn_tvm.manifest import Manifest
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.exposure import accept_all, reached_from

TIMEOUT = 10.0


def check_cluster(
    cluster: ClusterFile,
    *,
    manifest: Manifest | None = None,
    insecure: bool = False,
    timeout: float = TIMEOUT,
    links: bool = True,
    route: Route = lambda source, target, address: address,
    progress: Callable[[str, float, float], None] | None = None,
) -> Report:
    """Try every worker of a cluster, and every pair of those that answer.

    Parameters
    ----------
    cluster : ClusterFile
        What the file says.
    manifest : Manifest, optional
        Of the package that the workers are to run; else each is compared with its target and with
        the versions of this machine.
    insecure : bool
        Do without keys beyond loopback.
    timeout : float
        Seconds that connecting and each answer may take.
    links : bool
        Measure the links too, a second for each pair.
    route : callable
        How one machine reaches another; see `LinkProber`.
    progress : callable, optional
        Told of every link with its name, its index, and their number.

    Raises
    ------
    InputError
        The keys are damaged, or an address beyond loopback has neither keys nor `insecure`.
    """
    credentials = None if cluster.keys is None else Credentials.load(cluster.keys)
    encrypt = credentials is not None
    accept_all(cluster.addresses, keys=encrypt, insecure=insecure)
    context = Context(
        credentials=credentials, manifest=manifest, workers=len(cluster.workers), timeout=timeout
    )
    with ThreadPoolExecutor(len(cluster.workers)) as pool:
        examined = list(pool.map(lambda entry: examine(entry, context), cluster.workers))
    findings: list[Finding] = [finding for found, _ in examined for finding in found]
    findings += check_trackers(cluster.workers, cluster.tracker)
    there = {rank: worker for rank, (_, worker) in enumerate(examined) if worker is not None}
    try:
        if not links or not there:
            return Report(findings=tuple(findings))
        host = reached_from(worker.own_host for worker in there.values())
        with LinkProber(there, host=host, encrypt=encrypt, route=route) as prober:
            found, speeds = check_links(prober, cluster, progress)
        return Report(findings=tuple(findings + found), links=speeds)
    finally:
        for worker in there.values():
            worker.disconnect()
