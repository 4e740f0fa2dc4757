-- Which edges lead to an agent: the guard inbound of append_events.
CREATE INDEX guard_edge_target ON guard_edge (target);
