-- Moves a topic aside, only if it still ends with the id that was found not to be ours.
-- KEYS: topic, new name. ARGV: that id. Returns 1 when moved.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' and info[i + 1] == ARGV[1] then
    redis.call('RENAME', KEYS[1], KEYS[2])
    return 1
  end
end
return 0
