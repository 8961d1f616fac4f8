"""The agent under launchd: its property list, launchctl, and the ways from one state of it to another.

Nothing here knows models or HTTP: that a daemon became *ready* is asked by the command line, over HTTP, like
anybody would. `Agent` says where everything of one agent lies, `plist` and `lint` what launchd is told,
`launchctl` how it is told, and `lifecycle` in which order.
"""
