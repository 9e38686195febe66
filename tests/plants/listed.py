"""All plants, by what they break."""

from __future__ import annotations

from tests.plants.of_command_line import COMMAND_LINE
from tests.plants.of_hosts import HOSTS
from tests.plants.of_layout import LAYOUT
from tests.plants.of_policy import POLICY
from tests.plants.of_sessions import SESSIONS
from tests.plants.of_stores import STORES

PLANTS = [*STORES, *POLICY, *SESSIONS, *LAYOUT, *HOSTS, *COMMAND_LINE]
