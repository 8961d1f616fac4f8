"""`python -m pensieved` is `pensieved`."""

from pensieved.cli.app import main

main()
