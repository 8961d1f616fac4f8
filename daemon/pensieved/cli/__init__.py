"""The command line: what users type, what it prints, and the exit codes (0 done, 1 failed, 2 usage, 3 not ready)."""
