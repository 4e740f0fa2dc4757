-- Trims the audit topic up to what every counted group has committed, and past all but the ledger's
-- where it holds too much.
-- KEYS: topic. ARGV: how many entries the others may hold back, how many may go past them at once;
-- then, per group, the ledger's first: its name, the id after its watermark.
-- Returns the number trimmed, and the number that others have not had.
--
-- A watermark alone is not enough: it may stem from before a FLUSHALL, and reach beyond entries
-- added since by a clock gone back. So nothing goes that a group of this very topic has pending
-- or was not given yet, and nothing at all while the ledger's is missing.
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

if redis.call('EXISTS', KEYS[1]) == 0 then return {0, 0} end
local given = {}
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  given[group['name']] = group['last-delivered-id']
end

local function needed(group, first)
  local last = given[group]
  if not last then return '0-0' end
  if less(after(last), first) then first = after(last) end
  local pending = redis.call('XPENDING', KEYS[1], group)
  if pending[1] > 0 and less(pending[2], first) then first = pending[2] end
  return first
end

local ledger = needed(ARGV[3], ARGV[4])
local keep = ledger
for i = 5, #ARGV, 2 do
  local first = needed(ARGV[i], ARGV[i + 1])
  if less(first, keep) then keep = first end
end
local trimmed = redis.call('XTRIM', KEYS[1], 'MINID', '=', keep)

local excess = math.min(redis.call('XLEN', KEYS[1]) - tonumber(ARGV[1]), tonumber(ARGV[2]))
if excess <= 0 then return {trimmed, 0} end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess + 1)
local upto = #oldest > excess and oldest[#oldest][1] or ledger
if less(ledger, upto) then upto = ledger end
return {trimmed, redis.call('XTRIM', KEYS[1], 'MINID', '=', upto)}
