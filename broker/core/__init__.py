"""The broker's mind: a pure state machine that turns events into effects.

Nothing here reads a clock, draws a random number, opens a socket or touches a disk: time and
randomness are arguments, and effects are data that the shell performs.
"""
