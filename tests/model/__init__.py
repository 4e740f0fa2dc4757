"""The agents and edges of a zone as the contract has them, and the product played against that.

zone.py      the model: plain dictionaries, no event, no guard, no index
scene.py     the zone's own things, and where the processes listen
play.py      one command after the other, and what must be seen after each
local.py     all services in this process, with a clock that can be put forward
test_machine.py  hypothesis draws the commands
"""
