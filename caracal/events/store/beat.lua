-- Writes a heartbeat, only if every topic ends where the relay left it.
-- KEYS: heartbeat topic, topics. ARGV: cap, expected last id of each topic, strings of the entry.
-- Returns the real last ids when one differs (and writes nothing), else an empty list.
local real, same = {}, true
for i = 2, #KEYS do
  local last = last_id(KEYS[i])
  real[i - 1] = last
  if last ~= ARGV[i] then same = false end
end
if not same then return real end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, #KEYS + 1))
return {}
