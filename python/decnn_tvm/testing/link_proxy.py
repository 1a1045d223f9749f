# SPDX-License-Identifier: Apache-2.0
"""TCP proxies on loopback that stand between workers, to cut, slow down or damage their links."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

HOST = "127.0.0.1"
CHUNK = 1 << 16


@dataclass(eq=False)
class Link:
    """One direction from a rank to another: a listening port, and where it leads.

    Attributes
    ----------
    port : int
        Where the sender connects.
    target : str
        ``host:port`` of the receiver.
    cut : bool
        Whether connections are refused, and those there were are closed.
    rate : float
        Bytes per second that pass; 0 for all.
    corrupt : int
        How many of the next chunks get one byte changed.
    threshold : int
        Chunks up to so many bytes are spared: by default those that hold no data but a heartbeat.
    """

    port: int = 0
    target: str = ""
    cut: bool = False
    rate: float = 0.0
    corrupt: int = 0
    threshold: int = 256
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        back: asyncio.StreamWriter | None = None
        try:
            if self.cut:
                return
            host, _, port = self.target.rpartition(":")
            answers, back = await asyncio.open_connection(host, int(port))
            self.open |= {writer, back}
            pumps = [
                asyncio.ensure_future(self._pump(reader, back, damage=True)),
                asyncio.ensure_future(self._pump(answers, writer, damage=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        finally:
            for end in (writer, back):
                if end is not None:
                    self.open.discard(end)
                    end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, damage: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK if not self.rate else 4096):
                if rate := self.rate:
                    await asyncio.sleep(len(data) / rate)
                if damage and self.corrupt and len(data) > self.threshold:
                    self.corrupt -= 1
                    middle = len(data) // 2
                    data = data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :]
                writer.write(data)
                await writer.drain()

    def hang_up(self) -> None:
        """Close what is open."""
        for writer in list(self.open):
            writer.transport.abort()


class Proxies:
    """The links between ranks, served by one thread; use it in a ``with`` block."""

    def __init__(self) -> None:
        self.links: dict[tuple[int, int], Link] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def route(self, source: int, target: int, address: str) -> str:
        """Return the address by which `source` reaches the data plane of `target`."""
        link = self.links.get((source, target))
        if link is None:
            link = self.links[source, target] = Link()
            self._run(self._listen(link))
        place, separator, key = address.partition("#")
        if link.target != place:
            link.target = place
            self._loop.call_soon_threadsafe(link.hang_up)
        return f"{HOST}:{link.port}{separator}{key}"

    def cut(self, link: Link, on: bool) -> None:
        """Cut a link, or mend it."""
        link.cut = on
        if on:
            self._loop.call_soon_threadsafe(link.hang_up)

    def __enter__(self) -> Proxies:
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    async def _listen(self, link: Link) -> None:
        server = await asyncio.start_server(link.serve, HOST, 0)
        self._servers.append(server)
        link.port = server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for link in self.links.values():
            link.hang_up()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)
