"""Start of the engine process."""

from __future__ import annotations

import argparse
import os
import socket
from typing import TYPE_CHECKING

from pensieved.engine.protocol import Fault
from pensieved.engine.worker.link import Link, hold_lifeline
from pensieved.imports import libraries_by_name, uncollected, without_frameworks

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def main() -> None:
    """Run until the daemon goes away or the engine is lost; every exit is an `os._exit` of one of both."""
    parser = argparse.ArgumentParser(prog="pensieved.engine.worker")
    parser.add_argument("--fd", type=int, required=True, help="socket to the daemon")
    parser.add_argument("--lifeline", type=int, required=True, help="pipe that ends with the daemon")
    options = parser.parse_args()
    hold_lifeline(options.lifeline)
    link = Link(socket.socket(fileno=options.fd))
    without_frameworks()
    try:
        run = _import_loop()
    except Exception as error:  # noqa: BLE001  whatever a broken installation raises, say it
        link.send(Fault(f"MLX cannot be imported: {error}", permanent=True))
        os._exit(os.EX_SOFTWARE)
    run(link)


def _import_loop() -> Callable[[Link], NoReturn]:
    """What takes time to import, after the lifeline."""
    with uncollected():
        try:
            with libraries_by_name():
                from pensieved.engine.worker.loop import run  # noqa: PLC0415
        except Exception:  # noqa: BLE001  an mlx-lm that wants more than names
            from pensieved.engine.worker.loop import run  # noqa: PLC0415
    return run


if __name__ == "__main__":
    main()
