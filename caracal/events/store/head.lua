-- Says how a topic ends, at one moment: its last generated id, and its newest entry.
-- KEYS: topic.
return {last_id(KEYS[1]), newest(KEYS[1])}
