"""A cluster of which single nodes can be cut off from the others, while their clients still reach them."""

from __future__ import annotations

from contextlib import suppress

import psutil

from tests.support.etcd import Cluster
from tests.support.proxy import Proxy


class PartitionableCluster(Cluster):
    """Each node is reached by the others through a proxy of its own."""

    def __init__(self, nodes: int = 3) -> None:
        self._proxies: list[Proxy] = []
        self._cut_off: int | None = None
        super().__init__(nodes)

    def advertised(self, number: int) -> str:
        while len(self._proxies) <= number:
            self._proxies.append(Proxy(self.peers[len(self._proxies)], self._admits))
        return f"http://127.0.0.1:{self._proxies[number].port}"

    def cut_off(self, number: int) -> None:
        """Let nothing pass between node *number* and the others."""
        self._cut_off = number
        for each, proxy in enumerate(self._proxies):
            if each == number:
                proxy.cut()
            else:
                proxy.break_those(lambda source: not self._admits(source))

    def mend(self) -> None:
        """Let all nodes talk to each other again."""
        self._cut_off = None
        for proxy in self._proxies:
            proxy.mend()

    def close(self) -> None:
        super().close()
        for proxy in self._proxies:
            proxy.close()

    def _admits(self, source: int) -> bool:
        """Tell whether the connection from the port *source* is not one of the node that is cut off."""
        if self._cut_off is None:
            return True
        with suppress(psutil.Error):
            process = psutil.Process(self.processes[self._cut_off].pid)
            return all(each.laddr.port != source for each in process.net_connections("tcp"))
        return True
