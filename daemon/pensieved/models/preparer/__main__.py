"""Entry of the preparer process: a job on stdin, events on stdout, and death with the parent.

The parent keeps stdin open for as long as it lives; end-of-file there means that it is gone, however it
went, and then nothing here is worth finishing: every state on disk is one that the next run continues from.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, BinaryIO

from pensieved.errors import DiskFullError, PensievedError, PermanentError
from pensieved.imports import without_frameworks
from pensieved.models.preparer.report import Reporter
from pensieved.models.wire import Done, decode_job, encode_line, failed

if TYPE_CHECKING:
    from pensieved.models.wire import Event, Job

_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLX_DISABLE_COMPILE": "1",  # for one step of a smoke test; and what others left in the shared /tmp is not loaded
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def main() -> int:
    """Run one job."""
    events = _take_stdout()
    job = decode_job(sys.stdin.buffer.readline())
    threading.Thread(target=_die_with_parent, name="parent watch", daemon=True).start()
    os.environ.update(_ENVIRONMENT)
    if not job.trust_remote_code:
        without_frameworks()
    warnings.simplefilter("ignore")  # libraries' advice to their own developers

    def send(event: Event) -> None:
        events.write(encode_line(event))

    try:
        send(Done(str(_run(job, Reporter(send)))))
    except PensievedError as error:
        send(failed(error))
        return error.exit_code
    except OSError as error:
        known = _explained(error)
        if known is None:
            raise
        send(failed(known))
        return known.exit_code
    return 0


def _explained(error: OSError) -> PensievedError | None:
    """What the file system refused, as an error to show."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(f"The disk is full: {error}.", hint="Free some space; what was fetched is kept.")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
        return PermanentError(
            f"{error.filename or 'The cache'} cannot be used: {error.strerror}.",
            hint="Check [cache] dir, HF_HOME and who owns them.",
        )
    return None


def _run(job: Job, report: Reporter) -> str:
    from pensieved.models.preparer.chain import Chain  # noqa: PLC0415  after the environment is set

    return str(Chain(job, report).run())


def _take_stdout() -> BinaryIO:
    """Keep stdout for events alone; whatever a library prints goes to stderr."""
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return events


def _die_with_parent() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # pip too
    os._exit(1)


if __name__ == "__main__":
    try:
        status = main()
    except BaseException:  # noqa: BLE001  the parent reports the last line of stderr
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)  # MLX's and tokenizers' teardown has nothing left to do, and must not be able to hang
