"""Start of the engine process."""

from __future__ import annotations

import argparse
import os
import socket

from pensieved.engine.protocol import Fault
from pensieved.engine.worker.link import Link, hold_lifeline
from pensieved.imports import uncollected, without_frameworks


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
        with uncollected():
            from pensieved.engine.worker.loop import run  # noqa: PLC0415  a second of imports, after the lifeline
    except Exception as error:  # noqa: BLE001  whatever a broken installation raises, say it
        link.send(Fault(f"MLX cannot be imported: {error}", permanent=True))
        os._exit(os.EX_SOFTWARE)
    run(link)


if __name__ == "__main__":
    main()
