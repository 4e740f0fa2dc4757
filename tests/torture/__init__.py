"""The chaos driver: real processes, real servers, a random fault at a random moment.

``python -m tests.torture --seconds 600`` (``make torture``); a short form runs with the tests.

process.py   the processes that are killed: relay, runners, writer
stack.py     servers and processes under the driver's hands
faults.py    what is done to them
oracle.py    what must be true afterwards
trials.py    trial after trial, and the summary

authority.py another game: zones of agents in play on the whole product (``--authority``)
"""
