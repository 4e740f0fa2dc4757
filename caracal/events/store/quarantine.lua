-- Moves a topic aside, only if it still ends as it did when it was found not to be ours.
-- KEYS: topic, new name. ARGV: what head.lua said: last id, id of the newest entry, its strings.
-- Returns 1 when moved.
local entry = newest(KEYS[1])
local same = last_id(KEYS[1]) == ARGV[1] and entry[1] == ARGV[2] and #entry[2] == #ARGV - 2
for i = 1, #entry[2] do
  same = same and entry[2][i] == ARGV[i + 2]
end
if not same then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
