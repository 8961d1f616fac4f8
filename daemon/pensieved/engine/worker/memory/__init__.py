"""The memory guard: who may begin, what is let go of, and what is never touched, which is the rest of the machine."""
