"""launchctl, run as a file: it needs no installed package, and starts the faster without any."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from launchd_standin.verbs import main

sys.exit(main(sys.argv[1:]))
