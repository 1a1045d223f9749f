# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of a worker, by ``prometheus_client`` (the extra ``metrics``).

They show what `decnn_tvm.runtime.observation` shows. The page is plain HTTP and asks nobody who he
is, so it is served on loopback; another interface takes the user's explicit word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, get_args

from decnn_tvm.errors import ClusterError, InputError
from decnn_tvm.runtime.exposure import accept_exposure
from decnn_tvm.runtime.observation import Observation, WorkerStatus, peer_name

if TYPE_CHECKING:
    from prometheus_client import Metric

_COUNTERS = {
    "samples": "Samples finished in this session",
    "compute_seconds": "Seconds in stages",
    "wait_seconds": "Seconds without a ready stage while samples were under way",
    "transfer_seconds": "Seconds of packing, checking and unpacking messages",
    "refused_messages": "Messages that were no whole message of the session",
    "refused_clients": "Connections that were turned away",
}
_GAUGES = {
    "open_samples": "Samples under way",
    "resident_bytes": "Resident memory of the process",
    "weight_bytes": "Packed weights",
}
_BY_PEER = {"sent_bytes": "Bytes sent to a peer", "received_bytes": "Bytes received from a peer"}


class WorkerCollector:
    """Makes metrics of an observation whenever they are asked for."""

    def __init__(self, observe: Callable[[], Observation]) -> None:
        self._observe = observe

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of this moment."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        seen = self._observe()
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"decnn_{name}", text, value=getattr(seen, name))
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"decnn_{name}", text, value=getattr(seen, name))
        for name, text in _BY_PEER.items():
            family = CounterMetricFamily(f"decnn_{name}", text, labels=["peer"])
            for rank, count in getattr(seen, name).items():
                family.add_metric([peer_name(rank)], count)
            yield family
        state = GaugeMetricFamily("decnn_state", "1 for the state that holds", labels=["state"])
        for value in get_args(WorkerStatus):
            state.add_metric([value], float(seen.state == value))
        yield state


def serve_metrics(
    observe: Callable[[], Observation], address: str, *, insecure: bool = False
) -> Callable[[], None]:
    """Serve metrics over HTTP at ``PORT`` of loopback, or at ``HOST:PORT``.

    Returns
    -------
    callable
        Ends the server.

    Raises
    ------
    InputError
        ``prometheus_client`` is not installed, the address has another form, or it lies beyond
        loopback without `insecure`.
    ClusterError
        It can't listen there.
    """
    host, _, port = address.rpartition(":")
    host = host or "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535:
        raise InputError(f"metrics {address!r}: expected PORT or HOST:PORT.")
    accept_exposure(host, keys=False, insecure=insecure)
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        raise InputError(
            "metrics: prometheus_client is not installed. `pip install 'decnn-tvm[metrics]'`."
        ) from error
    registry = CollectorRegistry()
    registry.register(WorkerCollector(observe))
    try:
        server, thread = start_http_server(int(port), host, registry)
    except OSError as error:
        raise ClusterError(
            f"metrics: can't listen on {host}:{port} ({error}). Take another port, or an address "
            "of this machine."
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return end
