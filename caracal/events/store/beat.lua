-- Writes a heartbeat, only if every topic ends where the relay left it.
-- KEYS: heartbeat topic, topics. ARGV: cap, expected last id of each topic, strings of the entry.
-- Returns the real last ids when one differs (and writes nothing), else an empty list.
local real, same = {}, true
for i = 2, #KEYS do
  local last = '0-0'
  if redis.call('EXISTS', KEYS[i]) == 1 then
    local info = redis.call('XINFO', 'STREAM', KEYS[i])
    for j = 1, #info, 2 do
      if info[j] == 'last-generated-id' then last = info[j + 1] end
    end
  end
  real[i - 1] = last
  if last ~= ARGV[i] then same = false end
end
if not same then return real end
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', unpack(ARGV, #KEYS + 1))
return {}
