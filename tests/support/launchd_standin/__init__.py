"""launchd without a Mac: a launchctl that keeps state, and one supervising process for each loaded job.

It is an executable of its own, passed by path, so that what is tested talks to it as it will to the real one:
arguments in, exit code and text out. State lies in the folder $LAUNCHCTL_STANDIN:

    config.json        how this launchd behaves (`store.Config`): sessions, drain window, time scale, owner
    overrides.json     the store that `enable` and `disable` write
    login-items.json   labels switched off in System Settings, which `enable` does not overrule
    jobs/LABEL/        a loaded job: job.json (the plist as it was when bootstrapped) and the socket `control`
    gone/LABEL         when a job was unloaded: for a while after, bootstrap answers 5

What it imitates comes from launchd.plist(5), launchctl(1) and transcripts of real machines; what cannot be
known from those is chosen to be the harder case. It needs nothing but Python's standard library.

A supervisor ends, and its job with it, when the process named as `owner` is gone: no test leaves one behind,
however it ends.
"""
