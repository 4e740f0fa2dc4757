-- Appends a batch to a topic, only if it ends where the batch begins.
-- KEYS: topic. ARGV: expected last id, cap, then per entry: id, number of strings, strings.
-- Returns nothing when appended, else the topic's real last id.
-- An empty topic takes any start.
local last = last_id(KEYS[1])
if last ~= '0-0' and last ~= ARGV[1] then return last end
local at = 3
while at <= #ARGV do
  local id, size = ARGV[at], tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, unpack(ARGV, at + 2, at + 1 + size))
  at = at + 2 + size
end
return false
