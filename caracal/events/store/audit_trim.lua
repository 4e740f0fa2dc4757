-- Trims the audit topic up to what every counted group has committed.
-- KEYS: topic. ARGV, per group: its name, the id after its watermark. Returns the number trimmed.
--
-- A watermark alone is not enough: it may stem from before a FLUSHALL, and reach beyond entries
-- added since by a clock gone back. So nothing goes that a group of this very topic has pending
-- or was not given yet, and nothing at all while a group is missing.
local function parts(id)
  local position, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(position), tonumber(n)
end

local function less(a, b)
  local ap, an = parts(a)
  local bp, bn = parts(b)
  return ap < bp or (ap == bp and an < bn)
end

local function after(id)
  local position, n = parts(id)
  return string.format('%.0f-%.0f', position, n + 1)
end

if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local given = {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  given[group['name']] = group['last-delivered-id']
end

local keep
for i = 1, #ARGV, 2 do
  local last = given[ARGV[i]]
  if not last then return 0 end
  local first = ARGV[i + 1]
  if less(after(last), first) then first = after(last) end
  local pending = redis.call('XPENDING', KEYS[1], ARGV[i])
  if pending[1] > 0 and less(pending[2], first) then first = pending[2] end
  if not keep or less(first, keep) then keep = first end
end
if not keep then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', keep)
