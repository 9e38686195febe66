"""A cluster of which one node can be cut off from the others, while clients still reach it."""

from __future__ import annotations

from contextlib import suppress

import psutil

from tests.support.etcd import Cluster
from tests.support.proxy import Proxy


class PartitionableCluster(Cluster):
    """The nodes reach each one through a proxy of its own."""

    def __init__(self, nodes: int = 3) -> None:
        self._proxies: list[Proxy] = []
        self._isolated: int | None = None
        super().__init__(nodes)

    def advertised_peer_url(self, number: int) -> str:
        while len(self._proxies) <= number:
            self._proxies.append(Proxy(self.peers[len(self._proxies)], self._admits))
        return f"http://127.0.0.1:{self._proxies[number].port}"

    def cut_off(self, number: int) -> None:
        """Break every connection between node *number* and the others."""
        self._isolated = number
        for each, proxy in enumerate(self._proxies):
            if each == number:
                proxy.cut()
            else:
                proxy.break_connections(lambda source: not self._admits(source))

    def mend(self) -> None:
        """Let all nodes reach each other again."""
        self._isolated = None
        for proxy in self._proxies:
            proxy.mend()

    def close(self) -> None:
        super().close()
        for proxy in self._proxies:
            proxy.close()

    def _admits(self, source: int) -> bool:
        """Return whether the connection from port *source* comes from another node than the isolated one."""
        if self._isolated is None:
            return True
        with suppress(psutil.Error):
            process = psutil.Process(self.processes[self._isolated].pid)
            return all(each.laddr.port != source for each in process.net_connections("tcp"))
        return True
