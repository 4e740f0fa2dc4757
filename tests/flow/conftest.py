"""The product as processes, for tests that kill them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from caracal.embedded import EmbeddedServers
from tests.flow.nursery import Nursery
from tests.flow.product import Product

Making = Callable[..., Product]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """What forks the services of all tests here."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="module")
def making(
    nursery: Nursery, _stopped_servers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Making]:
    """Make a product on servers of its own: ``making(MAX_STALENESS="2s")``."""
    with ExitStack() as stack:

        def make(**settings: str) -> Product:
            directory = tmp_path_factory.mktemp("product")
            shutil.copytree(_stopped_servers, directory / "data")
            servers = EmbeddedServers(directory / "data")
            servers.start()
            stack.callback(servers.stop)
            product = Product(servers, nursery, directory, **settings)
            stack.callback(lambda: product.kill(*product.running))
            return product

        yield make
