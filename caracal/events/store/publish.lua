-- Appends a batch and says in a heartbeat that it did: all of that, if every topic ends where the
-- relay left it, else nothing.
-- KEYS: heartbeat topic, topics. ARGV: caps of heartbeat and topics, expected last id of each,
-- number of strings of the heartbeat, strings, then per entry: number of its topic, its id, number
-- of strings, strings.
-- Returns 1 when done.
local first = #KEYS + 2  -- where the heartbeat begins
local at = first + 1 + tonumber(ARGV[first])
local entries, appending = {}, {}
while at <= #ARGV do
  entries[#entries + 1] = at
  appending[tonumber(ARGV[at])] = true
  at = at + 3 + tonumber(ARGV[at + 2])
end

for i = 1, #KEYS - 1 do
  -- Of a topic that gets nothing the newest entry is enough, at half the price: an id used up and
  -- deleted is found by the next heartbeat alone, or when something is to be appended there.
  local quick = not appending[i] and newest(KEYS[i + 1])[1] == ARGV[i + 2]
  if not quick and last_id(KEYS[i + 1]) ~= ARGV[i + 2] then return 0 end
end

for _, from in ipairs(entries) do
  local topic, size = KEYS[tonumber(ARGV[from]) + 1], tonumber(ARGV[from + 2])
  redis.call('XADD', topic, 'MAXLEN', '~', ARGV[2], ARGV[from + 1], unpack(ARGV, from + 3, from + 2 + size))
end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, first + 1, first + tonumber(ARGV[first])))
return 1
