-- Appends a batch to a topic, only if it ends where the batch begins.
-- KEYS: topic. ARGV: expected last id, cap, then per entry: id, number of strings, strings.
-- Returns the topic's last id: the batch's own, or, when nothing was appended, the real one.
-- An empty topic takes any start.
local function last_id(topic)
  if redis.call('EXISTS', topic) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', topic)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then return info[i + 1] end
  end
end

local last = last_id(KEYS[1])
if last ~= '0-0' and last ~= ARGV[1] then return last end
local at = 3
while at <= #ARGV do
  local id, size = ARGV[at], tonumber(ARGV[at + 1])
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], id, unpack(ARGV, at + 2, at + 1 + size))
  last = id
  at = at + 2 + size
end
return last
