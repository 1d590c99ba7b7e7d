"""Whether the Ray cluster at an address is there and open to us: found out in a second.

Ray itself tries for minutes, and loads for seconds before that.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pruning.errors import UserError
from search.config import Config

LOCAL = "local"
ANSWER_S = 3.0  # for a cluster's port to answer
SERVER_S = 6.0  # for what listens there to say which cluster it is
LOCKED = re.compile(r"unauthenticated|authentication|auth[ _]?token", re.I)

_open: set[str] = set()  # addresses that were looked at


def address_of(config: Config) -> str:
    """Of the cluster to join (a Ray job's own, say); local where a private Ray is meant."""
    return config.resources.address or os.environ.get("RAY_ADDRESS") or LOCAL


def check(address: str) -> None:
    """UserError, one line, where no cluster is there or it asks for a token that we lack.

    What only Ray can tell is left to Ray. Loads Ray once something listens at HOST:PORT.
    """
    if address == LOCAL or address in _open:
        return
    found = _found(address)
    _check_answers(found)
    _check_server(found)
    _open.add(address)


def locked(address: str) -> UserError:
    return UserError(
        f"the Ray cluster at {address} asks for a token; put it into ~/.ray/auth_token or "
        "RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token"
    )


def _found(address: str) -> str:
    """What Ray makes of `auto`: a cluster of this machine. UserError where it knows of none.

    Where this Ray looks for it in another way, the word stays, and Ray is to say.
    """
    if address != "auto":
        return address
    try:
        from ray._private.services import get_ray_address_from_environment as find

        return str(find(address, None))
    except (ImportError, TypeError):
        return address
    except OSError as error:  # no cluster, or no access to what tells of it
        raise UserError(
            "no Ray cluster on this machine for the address auto; start one (ray start --head), "
            "or leave out resources.address and RAY_ADDRESS"
        ) from error


def _check_answers(address: str) -> None:
    """UserError where nothing listens at HOST:PORT."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # local, auto, or another of Ray's own words
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
            return
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _absent(address, why) from error


def _check_server(address: str) -> None:
    """UserError where what listens at HOST:PORT is no Ray, or a locked one. One try, not twenty."""
    if not re.fullmatch(r"[^/]+:\d+", address):
        return  # a proxy for clients of Ray's, or a word of its own
    try:
        from ray import _raylet
        from ray._private.authentication import authentication_token_setup as setup

        # as ray.init does: without a token to give, the C++ below would end the process
        getattr(setup, "maybe_enable_token_auth_if_token_available", _nothing)()
        setup.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
        client = vars(_raylet)["GcsClient"]
    except (ImportError, AttributeError, KeyError, TypeError):
        return  # another Ray, which tries in its own way
    except Exception as error:
        raise locked(address) from error
    met: list[Any] = []

    def ask() -> None:
        try:
            client(address=address)
            met.append(None)
        except Exception as error:
            met.append(error)

    with _quiet():
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(SERVER_S)
    if not met:
        raise _absent(address, f"what listens there gave no answer in {SERVER_S:g} s")
    if (why := met[0]) is None:
        return
    if LOCKED.search(f"{type(why).__name__} {why}"):
        raise locked(address) from why
    raise _absent(address, " ".join(str(why).split())[:200]) from why


def _absent(address: str, why: str) -> UserError:
    return UserError(
        f"no Ray cluster at {address} ({why}); start one, or leave out resources.address and "
        "RAY_ADDRESS to run on this machine"
    )


def _nothing() -> None:
    pass


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, what Ray's C++ writes to the error stream is dropped: we say it in one line."""
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # there is none
        yield
        return
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
