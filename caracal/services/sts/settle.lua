-- The one Redis call of an exchange: takes the Gateway's nonce, counts the rates, and adds, of
-- the prebuilt audit entries, those that apply.
--
-- KEYS: audit topic, nonce ('' = ordinary call), then a rate counter for each step ('' = none).
-- ARGV: life of a nonce (s); entry of a replay; number of steps; for each step: limit, window
--       (s), granted (1), ends the request (1), entry, entry when limited; then the entry to add
--       when something was granted, and when nothing was.
-- An entry is its number of strings (0 = none), then name, value, name, value ...
-- Returns: 'ok' or 'replayed'; one character a step, 1 = limited; ids of the added entries.
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
local function entry()
  local first = at + 2
  at = first + tonumber(ARGV[at + 1]) - 1
  return {first, at}
end
local added = {}
local function add(one)
  if one[1] <= one[2] then
    added[#added + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, one[1], one[2]))
  end
end

local nonce_life, replayed = take(), entry()
if KEYS[2] ~= '' and not redis.call('SET', KEYS[2], '1', 'NX', 'EX', nonce_life) then
  add(replayed)
  return {'replayed', '', added}
end

local function over(key, limit, window)
  if key == '' then return false end
  local count = redis.call('INCR', key)
  if count == 1 then redis.call('EXPIRE', key, window) end
  return count > limit
end

local limited, granted, ended = {}, 0, false
for step = 1, tonumber(take()) do
  local limit, window, grants, ends = tonumber(take()), take(), take() == '1', take() == '1'
  local within, without = entry(), entry()
  local refused = not ended and over(KEYS[2 + step], limit, window)
  limited[step] = refused and '1' or '0'
  if not ended then
    add(refused and without or within)
    if grants and not refused then granted = granted + 1 end
    ended = ends and not refused
  end
end
local when_granted, when_none = entry(), entry()
if not ended then add(granted > 0 and when_granted or when_none) end
return {'ok', table.concat(limited), added}
