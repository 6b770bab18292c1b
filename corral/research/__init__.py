"""Research on daily prices: the built-in kinds, their data, the pipeline file and the report.

An application on top of `corral.handlers`. Nothing here knows a broker, a worker or a socket, and
nothing here is imported by them: workers find the handlers by entry point. Modules that a worker or
the command line loads at start (`ranking`, `selection`, `training`, `backtest`, `pipeline`,
`report`, `datasets`) import no numerical library before they are called.
"""
